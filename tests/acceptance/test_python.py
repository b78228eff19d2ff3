"""The guide to Python: each of its programs is run as it stands there, against a service of its own."""

import json
import re
import subprocess
import sys

import pytest

from tests.acceptance.batches import make_rows, statuses, write_manifest
from tests.acceptance.place import Place, Server
from tests.acceptance.starting import ROOT

GUIDE = (ROOT / "uploader/docs/python.md").read_text(encoding="utf-8")
PROGRAMS = {name: code for code, name in re.findall(r'```python\n("""(\w+)\.py: .*?)```', GUIDE, re.DOTALL)}
# as much of Airflow as a DAG file touches: the decorators keep what they are given
AIRFLOW = {
    "airflow/__init__.py": "",
    "airflow/exceptions.py": "class AirflowException(Exception):\n    pass\n\n\n"
    "class AirflowFailException(AirflowException):\n    pass\n",
    "airflow/sdk.py": "GIVEN = []\n\n\n"
    "def dag(**given):\n    GIVEN.append(given)\n    return lambda function: function\n"
    "\n\ndef task(function):\n    return lambda *given: GIVEN.append((function, given))\n",
}
NIGHT = """
import json, sys
from airflow import exceptions, sdk
import append_calls
scheduled, (function, given) = sdk.GIVEN
assert scheduled["max_active_runs"] == 1
try:
    said = function(sys.argv[1], sys.argv[2])
    print(json.dumps({"counts": said["counts"], "given": given}))
except exceptions.AirflowFailException as error:
    print(json.dumps({"fails": str(error)}))
except exceptions.AirflowException as error:
    print(json.dumps({"again": str(error)}))
"""


def python(place: Place, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run Python in the place's folder, with its environment."""
    environment = {**place.environment, "PYTHONPATH": f"{place.folder}:{':'.join(sys.path)}"}
    return subprocess.run(
        [sys.executable, *words], cwd=place.folder, env=environment, capture_output=True, text=True, check=False
    )


def test_the_plain_script_appends_and_tells_of_each_job(place: Place, server: Server) -> None:
    """As it stands in the guide: a line for each job, then the ending; its exit code is the command's."""
    write_manifest(place, "m.csv", make_rows(place, 4, 2))
    place.write("append.py", PROGRAMS["append"])
    ended = python(place, "append.py", "m.csv")
    assert (ended.returncode, ended.stderr) == (0, "")
    *jobs, last = ended.stdout.splitlines()
    appended = server.journal.appended()
    assert sorted(jobs) == sorted(f"{put.conversation_id} {put.job_id} completed" for put in appended)
    assert (len(appended), last) == (4, "Done: nothing is left to do (4 completed).")
    assert statuses(place.path("m.results.csv")) == ["completed"] * 4
    refused = python(place, "append.py", "gone.csv")
    assert refused.returncode == 1
    assert "exit code 2: manifest gone.csv" in refused.stderr


@pytest.mark.parametrize(("faults", "outcome"), [("", "counts"), ("[jobs]\nfailed = 1.0\n", "fails")])
def test_the_dag_appends_a_night_and_tells_airflow_what_to_do(place: Place, faults: str, outcome: str) -> None:
    """Its callable ends well, or fails for good where a person is needed; a lack of time alone is tried again."""
    place.use(place.serve("--limit", "5", faults=faults))
    write_manifest(place, "calls.csv", make_rows(place, 3, 3))
    for name, content in {**AIRFLOW, "append_calls.py": PROGRAMS["append_calls"], "night.py": NIGHT}.items():
        place.write(name, content)
    ended = python(place, "night.py", "calls.csv", f"sqlite:///{place.ledger}")
    found = json.loads(ended.stdout)
    assert outcome in found, ended
    if outcome == "counts":
        assert found["counts"]["completed"] == 3
        assert found["given"] == ["/data/calls-{{ ds }}.csv", "sqlite:////srv/uploader/ledger.db"]
    else:
        assert "uploader resolve" in found["fails"]


def test_each_setting_of_the_guide_is_one() -> None:
    """Its example of `Settings` is evaluated as it stands there."""
    from uploader import Secret, Settings  # noqa: PLC0415 - the names that the example needs

    (example,) = re.findall(r"`(Settings\(ledger=.*?\}\))`", GUIDE, re.DOTALL)
    settings = eval(example, {"Settings": Settings, "Secret": Secret})
    assert (settings.limit, settings.lanes.hold) == (10, False)
