"""Import of all modules with entries, which registers them in ``benchmarks.speed.harness.ENTRIES``."""

from benchmarks.speed import trainer  # noqa: F401, I001 (first: the others leave a profiler behind)
from benchmarks.speed import classification, detection, diffusion, generation, imagen, networks  # noqa: F401 (methods)
from benchmarks.speed import commands, data, metrics, processes  # noqa: F401 (other entries)
from benchmarks.planning import paper_steps  # noqa: F401 (recipes of papers)
