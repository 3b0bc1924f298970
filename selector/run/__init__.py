"""Where work runs: jobs are plain values, and an executor runs one pure function over them.

In this process, in worker processes of this machine, or on a Ray cluster: the same results from each. Nothing here
knows what a model is; rooms above say what a job is (``extract/job.py``, ``tuning/job.py``, ``scan/jobs.py``).
"""
