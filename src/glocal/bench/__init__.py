"""What models cost: parameters and multiply–accumulates."""

from glocal.bench.catalog import Entry, catalog
from glocal.bench.cost import Cost, StageCost, measure

__all__ = ["Cost", "Entry", "StageCost", "catalog", "measure"]
