"""Records what a command changes in a data directory, in the audit log that the settings name."""

import contextlib
import os
import pwd
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from serve.config import ServerConfig
    from serve.observe.audit import Subject


@contextlib.contextmanager
def audited(config: "ServerConfig", method: str) -> Iterator["Subject"]:
    """Record the act of the block, done or failed. Yields the act's subject, for the block to fill in.

    A file that cannot be written is a warning: the act is done.
    """
    from serve.errors import name_of
    from serve.observe.audit import Act, AuditFile, Subject

    subject, outcome, reason = Subject(), "OK", ""
    try:
        yield subject
    except Exception as error:
        outcome, reason = "FAILED", name_of(error)
        raise
    finally:
        if config.audit_log:
            act = Act(method=method, caller=_user(), outcome=outcome, reason=reason, subject=subject)
            file = AuditFile(Path(config.audit_log))
            try:
                file.append(act.line(with_question=False))
            except OSError as error:
                problem = f"cannot write {config.audit_log}: {error.strerror or error}"
                click.echo(f"kinodex: warning: {problem}: this act is not in the audit log", err=True)
            finally:
                file.close()


def _user() -> str:
    """Return "local:" and the name of this process's user. No token has a name with a colon."""
    try:
        return f"local:{pwd.getpwuid(os.getuid()).pw_name}"
    except KeyError:  # a container's user has no name
        return f"local:{os.getuid()}"
