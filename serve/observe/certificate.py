"""ServedCertificate: the TLS context of the HTTP servers, which follows renewals of the certificate's files."""

import contextlib
import errno
import logging
import os
import ssl

from serve.config import ServerConfig
from serve.errors import SettingsError
from serve.files import is_open_to_all

logger = logging.getLogger(__name__)


class ServedCertificate:
    """The TLS context of server.tls_certificate. Connections after a renewal get the new one."""

    def __init__(self, config: ServerConfig, purpose: str) -> None:
        """Load the certificate; `purpose` names what it is for, in errors.

        Raises:
            SettingsError: If it is unusable.
        """
        self._config, self._purpose = config, purpose
        self._stamp = self._file_stamp()
        try:
            self._context = self._load()
        except OSError as error:  # ssl.SSLError is one
            raise SettingsError(
                f"cannot use server.tls_certificate {config.tls_certificate} for {purpose}: {_reason(error)}"
            ) from error

    def context(self) -> ssl.SSLContext:
        """Return the context for a new connection."""
        stamp = self._file_stamp()
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._context = self._load()
            except OSError as error:
                logger.error(
                    "certificate of %s not renewed, the old one stays reason=%s", self._purpose, _reason(error)
                )
        return self._context

    def _load(self) -> ssl.SSLContext:
        if is_open_to_all(self._config.tls_key):
            raise PermissionError(errno.EPERM, f"everybody may use its key: run `chmod o= {self._config.tls_key}`")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # An empty password: OpenSSL would ask for one on the terminal.
        context.load_cert_chain(self._config.tls_certificate, self._config.tls_key, password="")
        if self._config.tls_client_ca:
            context.load_verify_locations(self._config.tls_client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _file_stamp(self) -> list[tuple[int, int, int]]:
        stamps = []
        for path in (self._config.tls_certificate, self._config.tls_key, self._config.tls_client_ca):
            with contextlib.suppress(OSError):
                status = os.stat(path)
                stamps.append((status.st_mtime_ns, status.st_size, status.st_ino))
        return stamps


def _reason(error: OSError) -> str:
    return str(getattr(error, "reason", None) or error.strerror or error)
