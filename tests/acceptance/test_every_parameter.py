"""What a row says of its recording is what the service hears, to the last character."""

import json
from typing import Any

import pytest

from tests.acceptance.batches import read_results, write_table
from tests.acceptance.place import Place, Server
from tests.acceptance.starting import ROOT
from tests.every_parameter import EVERY_PARAMETER, TRICKY


def _cell(value: Any) -> str:
    """A value as it stands in a cell."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@pytest.mark.parametrize("manifest", ["m.csv", "m.jsonl"])
def test_every_parameter_of_a_row_reaches_the_service(place: Place, server: Server, manifest: str) -> None:
    """One row with every parameter set, reserved and foreign characters everywhere: the journal has them equal."""
    place.write("call.wav", (ROOT / "config/sample/delivery-call.wav").read_bytes())
    row: dict[str, Any] = {"conversationId": "c", "audioPath": "call.wav", **EVERY_PARAMETER}
    write_table(place, manifest, [{name: _cell(value) for name, value in row.items()} if manifest == "m.csv" else row])
    ending = place.run("run", manifest)
    assert ending.code == 0, ending.err
    [put] = server.journal.puts()
    assert put.parameters == EVERY_PARAMETER


def test_every_parameter_can_be_the_configs(place: Place, server: Server) -> None:
    """A parameter that a row does not set comes from the config's [parameters]; the row's own outranks it."""
    place.write("call.wav", (ROOT / "config/sample/delivery-call.wav").read_bytes())
    write_table(place, "m.csv", [{"conversationId": "c", "audioPath": "call.wav", "name": "the row's", "mode": ""}])
    settings = "".join(f"{name} = {_toml(value)}\n" for name, value in EVERY_PARAMETER.items())
    config = place.write("config.toml", f"[parameters]\n{settings}")
    ending = place.run("run", "m.csv", "--config", config)
    assert ending.code == 0, ending.err
    [put] = server.journal.puts()
    assert put.parameters == EVERY_PARAMETER | {"name": "the row's"}


def test_what_the_service_adds_later_is_passed_through(place: Place, server: Server) -> None:
    """[extra_parameters] go out as they are: refused by a service that has none such, taken by one that has."""
    place.write("call.wav", (ROOT / "config/sample/delivery-call.wav").read_bytes())
    write_table(place, "m.csv", [{"conversationId": "c", "audioPath": "call.wav"}])
    config = place.write("config.toml", f"[extra_parameters]\nlater = {_toml(TRICKY)}\nmore = [1, {{ a = true }}]\n")
    assert place.run("run", "m.csv", "--config", config).code == 1
    [refused] = server.journal.puts()
    assert (refused.status, str(refused.reason).partition(";")[0]) == (400, "later: no such query parameter")
    [line] = read_results(place.path("m.results.csv"))
    assert "Please refer docs for correct input fields.: later: no such query parameter" in line["error"]

    newer = place.serve("--allow-parameter", "later", "--allow-parameter", "more")
    place.use(newer)
    assert place.run("run", "m.csv", "--config", config).code == 0
    [taken] = newer.journal.puts()
    assert taken.parameters == {"later": TRICKY, "more": '[1,{"a":true}]'}


def test_a_rehearsal_takes_the_extra_parameters(place: Place) -> None:
    """The sandbox inside is told what else the operator's service knows."""
    place.write("call.wav", (ROOT / "config/sample/delivery-call.wav").read_bytes())
    write_table(place, "m.csv", [{"conversationId": "c", "audioPath": "call.wav"}])
    config = place.write("config.toml", "[extra_parameters]\nlater = 1\n")
    ending = place.run("run", "m.csv", "--sandbox", "--config", config)
    assert ending.code == 0, ending.out


def _toml(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name} = {_toml(member)}' for name, member in value.items())}}}"
    return json.dumps(value, ensure_ascii=False)
