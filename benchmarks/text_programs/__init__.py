"""What ``bench_text`` times: each program runs in a process of its own, reads its task from argv, prints one JSON line."""
