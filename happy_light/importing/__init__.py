"""Importing: take over another Happy server, or move one account between servers of this kind.

server_import.py     another server's database, secret and files become those of this server
  sources.py         what a source is: sqlite.py, postgres.py
  tables.py          the other servers' tables, and which of our tables and columns they become; convert.py: the values
  copy_tables.py     fill a new database; checks.py compares it with the source
  source_secret.py   find the other server's master secret
  source_files.py    copy the other server's files
  install.py         put the result into the data folder
account_import.py    an exported account joins the accounts of this server
  account_targets.py the database that it joins
  account_export.py  write an account to a file; export_file.py reads it
rows.py              what may be stored at all; relationships.py: only if both sides agree
report.py            what an import did
"""
