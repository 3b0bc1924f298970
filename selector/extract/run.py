"""The pure function of the extraction: a job in, entries of the store and measurements out."""

from __future__ import annotations

from selector.extract.item_rows import ItemRows
from selector.extract.job import ExtractJob, ExtractResult
from selector.extract.map_rows import MapRows
from selector.extract.workspace import Workspace, workspace_of


def extract(job: ExtractJob, workspace: Workspace | None = None) -> ExtractResult:
    """Bring the rows of a network into the store, loading it only when rows are missing.

    Args:
        job: what is wanted.
        workspace: what this process has at hand; a worker's own when None.
    Returns:
        For each variant its entry or why it has none; a variant that fails alone leaves the others.
    Raises:
        SourceError: the network cannot be used at all.
        StoreError: the store cannot be written (a full disk).
    """
    work = workspace or workspace_of(job.target, job.store, job.settings)
    return ItemRows(job, work).run() if job.plan is None else MapRows(job, work, job.plan).run()
