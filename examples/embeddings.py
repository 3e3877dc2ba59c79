"""Texts with their vectors in one table: similarity search without a vector database.

    python examples/embeddings.py [STORE]

10,000 short texts about ten topics, each with a vector of 384 numbers made from its words, lie in a table with a
key.  A search is one matrix product over the column, which is the mapped file itself: no copy, whatever its size.
Then texts are changed, added and deleted, while an older view of the matrix stays what it was.  Needs numpy alone.
"""

from __future__ import annotations

import sys
import tempfile
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import mmstore
from mmstore.database import Database

SIZE = 384
TOPICS = {
    "cooking": "bread oven flour simmer onion garlic butter recipe roast soup knife salt dough sauce",
    "astronomy": "planet orbit telescope galaxy comet star moon nebula eclipse gravity crater probe light",
    "music": "violin chord melody rhythm orchestra piano choir tempo sonata drum harmony concert string",
    "sailing": "sail mast harbour anchor wind keel rope tide deck rudder knot crew storm buoy",
    "gardening": "soil seed compost rose pruning tomato spade bloom root weed hedge watering greenhouse",
    "chess": "pawn knight bishop castle gambit checkmate opening endgame queen clock board sacrifice",
    "cycling": "pedal gear saddle chain sprint climb helmet wheel brake route tyre peloton bell",
    "medicine": "pulse fever doctor vaccine clinic nurse symptom dose surgery bone blood cough therapy",
    "finance": "bond interest dividend ledger loan budget invoice share tax market deposit audit credit",
    "weather": "rain cloud thunder frost humidity forecast snow wind barometer fog drought hail sunshine",
}
SCHEMA = {"id": "i8", "topic": "category", "text": "utf8", "vector": ("f4", SIZE)}


def embed(texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Vectors of length 1: the sum of a random direction for each word, so texts that share words are near."""
    words = sorted({word for text in texts for word in text.split()})
    numbers = {word: number for number, word in enumerate(words)}
    counts = np.zeros((len(texts), len(words)), np.float32)
    for row, text in enumerate(texts):
        np.add.at(counts[row], [numbers[word] for word in text.split()], 1)
    directions = [np.random.default_rng(zlib.crc32(word.encode())).standard_normal(SIZE) for word in words]
    vectors = counts @ np.array(directions, np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def documents(n: int, first_id: int) -> dict[str, Any]:
    """`n` texts of eight words of a topic each."""
    rng = np.random.default_rng(first_id)
    topics = rng.choice(list(TOPICS), n).tolist()
    texts = [" ".join(rng.choice(TOPICS[topic].split(), 8)) for topic in topics]
    return {"id": np.arange(first_id, first_id + n), "topic": topics, "text": texts, "vector": embed(texts)}


def search(db: Database, question: str, k: int = 5) -> list[dict[str, Any]]:
    """The `k` texts nearest to a question."""
    with db.snapshot() as snap:  # matrix, marks and texts of one state, whoever writes meanwhile
        docs = snap.table("docs")
        matrix = docs["vector"]
        assert not matrix.flags.owndata and not matrix.flags.writeable  # the file itself
        scores = matrix @ embed([question])[0]
        scores[docs.deleted] = -1
        nearest = np.argpartition(-scores, k)[:k]
        nearest = nearest[np.argsort(-scores[nearest])]
        return docs.take(nearest, ["id", "topic", "text"]).tolist()


def main() -> None:
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="mmstore-embeddings-") as folder:
        path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(folder, "texts.mms")
        with mmstore.open(path, "n") as db:
            docs = db.create_table("docs", SCHEMA, key="id")
            for first in range(0, 10_000, 2000):
                docs.append(documents(2000, first))
        with mmstore.open(path) as db:
            docs = db.table("docs")
            for question, topic in [
                ("a star and its planet seen by telescope", "astronomy"),
                ("knead the dough then roast an onion with butter", "cooking"),
                ("queen takes pawn and castle", "chess"),
            ]:
                found = search(db, question)
                assert {document["topic"] for document in found} == {topic}, found
                print(f"{question!r}\n    {found[0]['text']}")

            old = docs["vector"]  # held over all that follows
            before = old[7].copy()
            (row,) = docs.find([7])
            changed = "telescope telescope comet on a violin"
            docs.update([row], {"text": changed, "topic": "astronomy and music", "vector": embed([changed])})
            assert search(db, "comet violin telescope", 1)[0]["id"] == 7
            assert (old[7] == before).all() and not (docs["vector"][7] == before).all()

            docs.append(documents(500, 10_000))
            replaced = documents(1, 10_001) | {"text": ["marzipan"], "vector": embed(["marzipan"])}
            docs.append(replaced, on_conflict="replace")
            assert search(db, "marzipan", 1)[0]["id"] == 10_001
            docs.delete(docs.find([10_001]))
            assert search(db, "marzipan", 1)[0]["id"] != 10_001
            assert len(old) == 10_000 and docs.live_rows == 10_499

            chess = sum(len(batch) for batch in docs.scan(["id"], where=[("topic", "==", "chess")]))
            topics = docs["topic"]
            assert chess == int((topics.codes == topics.categories.index("chess")).sum())
            assert db.check() == []
            print(f"\n{docs.live_rows:,} texts, {chess:,} about chess; a view from before still has {len(old):,}")
    print(f"{time.perf_counter() - started:.1f} s in all")


if __name__ == "__main__":
    main()
