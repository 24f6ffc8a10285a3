"""What is wrong, or soon will be, with a TLS certificate and its key; for the start, doctor, and every day between."""

from __future__ import annotations

import datetime
import stat
from pathlib import Path
from typing import Final

SOON: Final = datetime.timedelta(days=14)


def problems(certificate: Path, key: Path, now: datetime.datetime | None = None) -> list[str]:
    """Return sentences about the validity of the certificate (PEM), and about who can read the key. Raises OSError.

    `now` is an aware time. A certificate is to be renewed SOON before its end, one with a short life in its last third.
    """
    from cryptography import x509

    now = now or datetime.datetime.now(datetime.UTC)
    found = []
    try:
        first = x509.load_pem_x509_certificates(certificate.read_bytes())[0]
    except ValueError:
        return [f"{certificate} contains no certificate"]
    begin, end = first.not_valid_before_utc, first.not_valid_after_utc
    if now >= end:
        found.append(f"the certificate {certificate} expired on {end:%Y-%m-%d}: no client accepts it; renew it")
    elif now < begin:
        found.append(f"the certificate {certificate} is not valid before {begin:%Y-%m-%d %H:%M} UTC: look at the clock")
    elif end - now < min(SOON, (end - begin) / 3):
        found.append(f"the certificate {certificate} expires on {end:%Y-%m-%d}; renew it")
    if key.stat().st_mode & stat.S_IROTH:
        found.append(f"every user of this computer can read the key {key}: chmod 600 '{key}'")
    return found
