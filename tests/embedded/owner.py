"""A process that owns an embedded Postgres until it is killed: `owner.py FOLDER`. Prints one line of JSON."""

import json
import sys
import time
from pathlib import Path

from gristmill.embedded.postgres import THROWAWAY, EmbeddedPostgres

postgres = EmbeddedPostgres(Path(sys.argv[1]), THROWAWAY)
postgres.start()
facts = {"url": postgres.url, "process_id": postgres.process_id, "sockets": str(postgres.socket_folder)}
print(json.dumps(facts), flush=True)
while True:
    time.sleep(60)
