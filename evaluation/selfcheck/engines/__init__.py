"""What another engine makes of our heads and of our plug-in: its texts, its laws, its speed.

Run by scripts/, not by the test suite. The engine runs in processes of its own (`in_process.py`, or its server), so
that each setup starts afresh.
"""
