"""A folder of pictures searched from Python, with the wheel of scripts/wheel installed.

    python3 search.py FOLDER 'a sentence'
"""

import os
import sqlite3
import sys

import dualpath

folder, sentence = sys.argv[1:]
db = sqlite3.connect(":memory:")
dualpath.load(db)
db.execute("CREATE TABLE photos(id INTEGER PRIMARY KEY, file TEXT)")
db.execute(
    "CREATE VIRTUAL TABLE album USING dualpath(content = 'photos', content_rowid = 'id', path = 'file')"
)
db.executemany("INSERT INTO photos(file) VALUES (?)", [(name,) for name in sorted(os.listdir(folder))])
db.commit()

# Whatever is no picture is skipped, and listed in album_skipped.
db.execute("SELECT dualpath_sync('album', ?)", [os.path.abspath(folder)]).fetchone()
nearest = """
    SELECT file, distance FROM album JOIN photos ON photos.id = album.rowid
    WHERE text MATCH ? ORDER BY distance LIMIT 3
"""
for file, distance in db.execute(nearest, [sentence]):
    print(f"{distance:.3f}  {file}")
