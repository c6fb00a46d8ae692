"""Every error of the worker, as one tree.

WorkerError
├── SettingsError             the settings cannot be used; the process ends with 78
├── RegistryError             a handler plugin cannot be used
├── ListenerError             an address cannot be listened on
├── WorkdirUnusable           executions can get no directories
├── JournalError
│   ├── JournalUnusable       the file is damaged, foreign, newer than this worker; the process ends with 78
│   ├── JournalUnwritable     the disk refuses a commit; nothing may be claimed
│   └── IllegalTransition     a verb was called on a row in the wrong state
│       └── TakenOver         … on a row that another worker holds by now
└── PlatformError             Product-Live did not do what it was asked
    ├── PlatformUnreachable   no answer: DNS, TLS, connection, time
    ├── AnswerUnreadable      an answer that says success and is not what the API describes
    └── AnswerError           an answer with a status that is no success
        ├── KeyRefused        401, 403
        ├── RateLimited       429
        ├── PlatformFailing   408, 5xx
        └── RequestRefused    any other
"""

from __future__ import annotations


class WorkerError(Exception):
    """An error of the worker; its text is one sentence for a person."""


class SettingsError(WorkerError):
    """The settings cannot be used; `problems` has one line each, naming setting, finding and what is allowed."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class RegistryError(WorkerError):
    """A handler plugin cannot be used."""


class ListenerError(WorkerError):
    """An address cannot be listened on."""


class WorkdirUnusable(WorkerError):
    """No directory can be made for executions."""


class JournalError(WorkerError):
    """The journal could not do what it was asked."""


class JournalUnusable(JournalError):
    """The journal's database cannot be used by this worker at all."""


class JournalUnwritable(JournalError):
    """The journal cannot be written just now; nothing may be claimed until it can."""


class IllegalTransition(JournalError):
    """A row is not in a state that allows this step."""


class TakenOver(IllegalTransition):
    """A row is another worker's by now: it is theirs to end."""


class PlatformError(WorkerError):
    """Product-Live did not do what it was asked; `code` labels the answer in metrics."""

    code = "error"
    retry_after: float | None = None
    """Seconds that the platform asked to wait, when it said so."""
    perhaps_done = False
    """Whether the request may have had its effect all the same."""


class PlatformUnreachable(PlatformError):
    """No answer came; `perhaps_done` is False when the request was certainly never sent."""

    code = "unreachable"

    def __init__(self, message: str, *, perhaps_done: bool) -> None:
        super().__init__(message)
        self.perhaps_done = perhaps_done


class AnswerUnreadable(PlatformError):
    """The answer says success, but its body is not what the API describes."""

    code = "unreadable"
    perhaps_done = True


class AnswerError(PlatformError):
    """An answer with a status that is no success."""

    def __init__(self, message: str, *, status: int, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = str(status)
        self.retry_after = retry_after


class KeyRefused(AnswerError):
    """401 or 403: the API key is not, or no longer, accepted."""


class RateLimited(AnswerError):
    """429: too many requests on this account, by this worker or by somebody else."""


class PlatformFailing(AnswerError):
    """408 or 5xx: trouble on the platform's side."""

    perhaps_done = True


class RequestRefused(AnswerError):
    """Any other answer that is no success; asking the same again is of no use."""
