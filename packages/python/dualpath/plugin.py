"""Loads the extension into every connection of Datasette and of sqlite-utils."""

import pluggy

from . import load

datasette = pluggy.HookimplMarker("datasette")
sqlite_utils = pluggy.HookimplMarker("sqlite_utils")


@datasette
@sqlite_utils
def prepare_connection(conn):
    load(conn)
