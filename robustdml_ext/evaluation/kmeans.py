"""k-means as the field's protocol runs it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from robustdml_ext.evaluation.inputs import Array, as_matrix, scale_to_one


def kmeans(
    embeddings: Array, clusters: int, seed: int, iterations: int = 20, restarts: int = 1
) -> npt.NDArray[np.int64]:
    """Assigns each of `embeddings` [N, D] to one of `clusters`: int64 [N].

    faiss's k-means with Euclidean distance in float32; the defaults are Roth et al.'s protocol (20
    iterations, 1 run). All points take part: faiss's own subsampling of large sets is off. Of several
    `restarts` the best is kept.

    Raises: ImportError without faiss; TypeError, ValueError for wrong embeddings, or clusters outside 1 .. N.
    """
    try:
        import faiss
    except ImportError as error:
        raise ImportError("k-means needs faiss, which is not installed: pip install faiss-cpu") from error
    matrix = as_matrix(embeddings)
    count, dimensions = matrix.shape
    if not 1 <= clusters <= count:
        raise ValueError(f"clusters must be in 1 .. {count}, the number of embeddings; got {clusters}")
    if iterations < 1 or restarts < 1:
        raise ValueError(f"iterations and restarts must be positive, got {iterations} and {restarts}")
    # Squares of float32 overflow beyond 1e19 and vanish below 1e-23; a power of two changes nothing else.
    scale = scale_to_one(float(matrix.abs().max()))
    points = np.ascontiguousarray((matrix * scale).cpu().numpy(), dtype=np.float32)
    search = faiss.Kmeans(
        dimensions,
        clusters,
        niter=iterations,
        nredo=restarts,
        seed=seed % (2**31 - 1),  # faiss takes 31 bits
        min_points_per_centroid=1,
        max_points_per_centroid=count,
    )
    search.train(points)
    nearest = search.index.search(points, 1)[1][:, 0]
    return np.asarray(nearest, dtype=np.int64)
