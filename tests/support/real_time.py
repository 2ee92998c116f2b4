"""Takes real-time priority back from a thread."""

import os


def leave_real_time() -> None:
    """Make this thread an ordinary one again, so that it and its children leave the processors to others.

    For root, SVT-AV1, with which some samples are encoded, makes the thread that calls it a real-time one.
    """
    if hasattr(os, "sched_setscheduler") and os.sched_getscheduler(0) != os.SCHED_OTHER:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
