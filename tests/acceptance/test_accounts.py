"""Several accounts in one manifest: each is full and never over, and one in trouble stops no other."""

import re
import shlex
import signal
from collections import Counter
from collections.abc import Mapping
from random import Random

from tests.acceptance.batches import Row, read_results, record, sound, statuses
from tests.acceptance.judging import check_appended, check_one_at_a_time
from tests.acceptance.place import Place, Server, until

LIMITS = {"small": 3, "large": 7}
FILES, CONVERSATIONS = 16, 8
# jobs that fill an account even on a slow machine: each is far longer than the beginning of all others beside it
LONG = ("--job-seconds", "1")


def serve_accounts(place: Place, *options: str, faults: str = "") -> dict[str, Server]:
    """Start a sandbox for each account; the credentials are in the environment, the rest in the config file."""
    servers = {
        name: place.serve("--limit", str(limit), "--job-seconds", "0.2", *options, faults=f"seed = {limit}\n{faults}")
        for name, limit in LIMITS.items()
    }
    tables = [
        f'[accounts.{name}]\nbase_url = "{server.base_url}"\nlimit = {LIMITS[name]}' for name, server in servers.items()
    ]
    place.write("nightly.toml", "\n".join(tables))
    for name, server in servers.items():
        for key in ("APP_ID", "APP_SECRET"):
            place.environment[f"UPLOADER_ACCOUNTS__{name.upper()}__{key}"] = server.environment[f"UPLOADER_{key}"]
    return servers


def write_rows(place: Place) -> Mapping[str, list[Row]]:
    """Write a manifest whose rows are of both accounts in turn, for the same conversationIds in both."""
    draw = Random(1)
    rows: dict[str, list[Row]] = {name: [] for name in LIMITS}
    lines = ["conversationId,audioPath,account"]
    for number in range(FILES):
        for name in LIMITS:
            path = f"audio/{name}-{number}.wav"
            row = Row(f"c-{number % CONVERSATIONS}", path, record(place, path, sound(draw)))
            rows[name].append(row)
            lines.append(f"{row.conversation},{path},{name}")
    place.write("m.csv", "\n".join(lines) + "\n")
    return rows


def test_each_account_is_full_and_none_is_over(place: Place) -> None:
    """Promise 3 for each account by itself: two with limits 3 and 7, one manifest, the same conversationIds in both."""
    rows = write_rows(place)
    servers = serve_accounts(place, *LONG)
    planned = place.run("plan", "m.csv", "--config", "nightly.toml", "--json").summary
    assert {account["account"]: (account["files"], account["limit"]) for account in planned["accounts"]} == {
        "small": (FILES, 3),
        "large": (FILES, 7),
    }
    ending = place.run("run", "m.csv", "--config", "nightly.toml", "--json")
    assert ending.code == 0
    for name, server in servers.items():
        journal = server.journal
        check_appended(journal, rows[name])
        check_one_at_a_time(journal)
        assert journal.peak_live() == LIMITS[name]
        assert {put.status for put in journal.puts()} == {201}
    found = {account["account"]: account["limit"]["inForce"] for account in ending.summary["accounts"]}
    assert found == LIMITS
    assert statuses(place.path("m.results.csv")) == ["completed"] * 2 * FILES

    # nothing is sent again, by the manifest or by the batch's name
    later = {name: server.from_now_on() for name, server in servers.items()}
    again = place.run("run", "m.csv", "--config", "nightly.toml", "--json")
    assert again.code == 0
    assert {account["account"]: account["limit"]["configured"] for account in again.summary["accounts"]} == LIMITS
    assert place.run("run", "--batch", "m.csv", "--config", "nightly.toml").code == 0
    assert [server.journal.puts() for server in later.values()] == [[], []]


def test_an_account_whose_secret_is_wrong_stops_no_other(place: Place) -> None:
    """The other account's items complete; the exit code is 3, and the account is named in the reason."""
    rows = write_rows(place)
    servers = serve_accounts(place)
    place.environment["UPLOADER_ACCOUNTS__SMALL__APP_SECRET"] = "not-the-secret"
    ending = place.run("run", "m.csv", "--config", "nightly.toml", "--json")
    assert ending.code == 3
    assert "account small" in ending.summary["reason"]
    assert "not-the-secret" not in ending.out + ending.err
    check_appended(servers["large"].journal, rows["large"])
    assert servers["small"].journal.puts() == []
    assert sorted(statuses(place.path("m.results.csv"))) == ["completed"] * FILES + ["pending"] * FILES

    place.environment["UPLOADER_ACCOUNTS__SMALL__APP_SECRET"] = servers["small"].environment["UPLOADER_APP_SECRET"]
    assert place.run("run", "m.csv", "--config", "nightly.toml").code == 0
    check_appended(servers["small"].journal, rows["small"])
    check_appended(servers["large"].journal, rows["large"])


def test_a_worker_goes_on_with_one_account_where_another_has_ended(place: Place) -> None:
    """It carries what is left of each, says in the log which has ended, and ends with that one's code once stopped."""
    rows = write_rows(place)
    servers = serve_accounts(place, *LONG)
    assert place.run("run", "m.csv", "--config", "nightly.toml", "--first", "1").code == 6
    small = servers["small"].from_now_on()
    place.environment["UPLOADER_ACCOUNTS__SMALL__APP_SECRET"] = "not-the-secret"
    worker = place.start("work", "--config", "nightly.toml", "--json")
    until(lambda: len(servers["large"].journal.appended()) == FILES, "the other account's items are sent")
    ending = worker.stop()
    assert ending.code == 3
    assert [event["account"] for event in ending.events("account.ended")] == ["small"]
    assert {account["account"] for account in ending.summary["accounts"]} == set(LIMITS)
    check_appended(servers["large"].journal, rows["large"])
    assert servers["large"].journal.peak_live() == LIMITS["large"]
    assert small.journal.puts() == []


def test_an_account_without_credentials_sends_nothing(place: Place) -> None:
    """Exit 2 before anything is sent, whichever account lacks them; the message names account and variables."""
    write_rows(place)
    servers = serve_accounts(place)
    del place.environment["UPLOADER_ACCOUNTS__SMALL__APP_SECRET"]
    ending = place.run("run", "m.csv", "--config", "nightly.toml")
    assert ending.code == 2
    assert "account small: no credentials: UPLOADER_ACCOUNTS__SMALL__APP_ID is set and" in ending.err
    assert [server.journal.puts() for server in servers.values()] == [[], []]


def test_an_unknown_account_is_an_invalid_row(place: Place) -> None:
    """It is told with line, column, value and the names that there are; with --on-invalid skip the rest is sent."""
    write_rows(place)
    servers = serve_accounts(place)
    text = place.path("m.csv").read_text(encoding="utf-8")
    place.write("m.csv", text.replace(",small\n", ",smal\n", 1))
    ending = place.run("run", "m.csv", "--config", "nightly.toml")
    assert ending.code == 2
    assert '"line": 2, "column": "account", "value": "smal", "remedy": "the settings have no such account' in ending.err
    assert "small, large, default" in ending.err
    assert place.run("run", "m.csv", "--config", "nightly.toml", "--on-invalid", "skip").code == 1
    assert sorted(statuses(place.path("m.results.csv"))) == ["completed"] * (2 * FILES - 1) + ["refused"]
    assert len(servers["small"].journal.appended()) == FILES - 1


def test_the_first_items_are_those_of_the_manifest(place: Place) -> None:
    """--first counts the batch's own items over all accounts, in the manifest's order."""
    rows = write_rows(place)
    servers = serve_accounts(place)
    assert place.run("run", "m.csv", "--config", "nightly.toml", "--first", "5").code == 6
    sent = {name: [str(put.sha256) for put in server.journal.appended()] for name, server in servers.items()}
    assert sorted(sent["small"]) == sorted(row.sha256 for row in rows["small"][:3])
    assert sorted(sent["large"]) == sorted(row.sha256 for row in rows["large"][:2])


def test_a_rehearsal_has_a_sandbox_for_each_account(place: Place) -> None:
    """--sandbox tries a manifest of several accounts without any credentials."""
    write_rows(place)
    place.write("nightly.toml", "[accounts.small]\nlimit = 3\n[accounts.large]\nlimit = 7\n")
    assert place.run("run", "m.csv", "--config", "nightly.toml", "--sandbox").code == 0


def test_an_account_that_the_settings_lost_is_told(place: Place) -> None:
    """A batch with items of an account that is no longer configured ends with 2, and the message names it."""
    write_rows(place)
    servers = serve_accounts(place)
    assert place.run("run", "m.csv", "--config", "nightly.toml", "--first", "5").code == 6
    text = place.path("nightly.toml").read_text(encoding="utf-8")
    place.write("nightly.toml", text.partition("[accounts.large]")[0])
    for key in ("APP_ID", "APP_SECRET"):
        del place.environment[f"UPLOADER_ACCOUNTS__LARGE__{key}"]
    later = servers["large"].from_now_on()
    ending = place.run("run", "--batch", "m.csv", "--config", "nightly.toml")
    assert ending.code == 2
    assert f"the account large of {servers['large'].base_url}" in ending.err
    assert later.journal.puts() == []


def test_the_doctor_looks_at_each_account(place: Place) -> None:
    """Each account has its secrets' sources and its service's answer; the one with a wrong secret is named, exit 3."""
    serve_accounts(place)
    found = place.run("doctor", "--config", "nightly.toml")
    assert found.code == 0, found.out
    assert "account small: UPLOADER_ACCOUNTS__SMALL__APP_ID from the environment" in found.out
    assert "account large: taken by" in found.out
    place.environment["UPLOADER_ACCOUNTS__SMALL__APP_SECRET"] = "not-the-secret"
    wrong = place.run("doctor", "--config", "nightly.toml")
    assert wrong.code == 3
    assert "fault    token    account small: " in wrong.out
    assert "not-the-secret" not in wrong.out + wrong.err


def test_results_of_a_named_account_are_adopted_for_it(place: Place) -> None:
    """The ledger is lost: each account's rows are taken back for it, and by both journals nothing comes twice.

    Adopted for the account above all tables they would be appended again: the same conversationIds are in both.
    """
    rows = write_rows(place)
    servers = serve_accounts(place)
    words = ("--config", "nightly.toml")
    assert place.run("run", "m.csv", *words).code == 0
    for path in place.ledger.parent.iterdir():
        path.unlink()
    header, *lines = place.path("m.results.csv").read_text().splitlines()
    for name in LIMITS:
        of_account = [line for line in lines if f"audio/{name}-" in line]
        place.write(f"{name}.results.csv", "\n".join([header, *of_account]) + "\n")
        adopted = place.run("ledger", "adopt", f"{name}.results.csv", "--account", name, *words)
        assert adopted.code == 0, adopted.err
        assert f"{FILES} adopted, 0 known already, 0 not appended, for {name} of" in adopted.out
    assert place.run("run", "m.csv", *words).code == 0
    for name, server in servers.items():
        check_appended(server.journal, rows[name])
    unknown = place.run("ledger", "adopt", "small.results.csv", "--account", "smal", *words)
    assert unknown.code == 2
    assert "the accounts are: small, large" in unknown.err


def printed_commands(text: str) -> list[list[str]]:
    """Return the words of the commands that a message tells to type, without the program."""
    found = re.findall(r"`uploader (ledger adopt [^`]+)`", text) + re.findall(
        r"^ *uploader (run .+)$", text, re.MULTILINE
    )
    return [shlex.split(words) for words in found]


def lose_ledger(place: Place) -> None:
    """Delete the ledger with all beside it."""
    for path in place.ledger.parent.iterdir():
        path.unlink()


def test_the_printed_remedy_for_a_lost_ledger_takes_each_row_back_for_its_account(place: Place) -> None:
    """The command that the refusal prints, typed as it stands: by both journals nothing comes twice afterwards."""
    rows = write_rows(place)
    servers = serve_accounts(place)
    words = ("--config", "nightly.toml")
    assert place.run("run", "m.csv", *words).code == 0
    lose_ledger(place)
    refused = place.run("run", "m.csv", *words)
    assert refused.code == 2
    [command] = printed_commands(refused.err)
    adopted = place.run(*command)
    assert adopted.code == 0, adopted.err
    assert f"{2 * FILES} adopted, 0 known already, 0 not appended, for {FILES} small of" in adopted.out
    assert place.run("run", "m.csv", *words).code == 0
    for name, server in servers.items():
        check_appended(server.journal, rows[name])


def test_the_printed_remedy_finds_the_audio_of_results_that_lie_elsewhere(place: Place) -> None:
    """Of one account, too: the paths start at the manifest's folder, though the results are in another."""
    rows = write_rows(place)["small"]
    place.write("m.csv", "\n".join(["conversationId,audioPath", *(f"{row.conversation},{row.audio}" for row in rows)]))
    place.path("out").mkdir()
    server = place.serve("--limit", "3", "--job-seconds", "0.2")
    place.use(server)
    words = ("--limit", "3", "--results", "out/r.csv")
    assert place.run("run", "m.csv", *words).code == 0
    lose_ledger(place)
    [command] = printed_commands(place.run("run", "m.csv", *words).err)
    assert "gone" not in place.run(*command).out
    place.path("m.csv").rename(place.path("n.csv"))
    assert place.run("run", "n.csv", "--limit", "3", "--results", "out/n.csv").code == 0
    check_appended(server.journal, rows)


def test_results_are_adopted_for_no_account_that_is_not_named(place: Place) -> None:
    """Where one above all tables has the base URL of a named one, a guess would disarm the guard: all refuse with 2."""
    rows = write_rows(place)
    servers = serve_accounts(place)
    text = place.path("nightly.toml").read_text(encoding="utf-8")
    place.write("nightly.toml", f'base_url = "{servers["small"].base_url}"\n{text}')
    words = ("--config", "nightly.toml")
    assert place.run("run", "m.csv", *words).code == 0
    lose_ledger(place)
    later = {name: server.from_now_on() for name, server in servers.items()}
    adopt = ("ledger", "adopt", "m.results.csv")
    for given, said in (
        (words, "there are several (small, large, and default, which is the one above all tables)"),
        (("--base-url", servers["small"].base_url), "--manifest "),
        ((*words, "--account", "small"), "is of the account large by the manifest"),
        ((*words, "--account", "default"), "is of the account small by the manifest"),
        ((*words, "--account", "small", "--manifest", "m.csv"), "name one of them"),
    ):
        refused = place.run(*adopt, *given)
        assert (refused.code, said in refused.err) == (2, True), refused.err
        assert place.run("run", "m.csv", *words).code == 2, "the guard holds"
    place.write("other.csv", "conversationId,audioPath,account\nc-0,audio/small-0.wav,small\n")
    assert "has no such row at line 3" in place.run(*adopt, *words, "--manifest", "other.csv").err
    assert place.run(*adopt, *words, "--manifest", "m.csv").code == 0
    assert place.run("run", "m.csv", *words).code == 0
    assert [server.journal.puts() for server in later.values()] == [[], []]
    for name, server in servers.items():
        check_appended(server.journal, rows[name])


def test_the_printed_command_carries_on_a_batch_of_several_accounts(place: Place) -> None:
    """After a kill, as `status` prints it: config file and the batch's own base URL are named, all completes."""
    rows = write_rows(place)
    servers = serve_accounts(place, "--answer-seconds", "0.05")
    words = ("--config", "nightly.toml", "--doubt-seconds", "1")
    running = place.start("run", "m.csv", *words)
    until(lambda: all(server.journal.appended() for server in servers.values()), "both have some")
    running.stop(signal.SIGKILL)
    status = place.run("status", "--config", "nightly.toml")
    assert status.code == 5
    assert "https://api.symbl.ai:" not in status.out, "nothing is sent to the account above all tables"
    [command] = printed_commands(status.out)
    later = place.run(*command)
    while later.code == 4:  # cut off by the kill after the last chunk
        for line in read_results(place.path("m.results.csv")):
            if line["status"] != "in_doubt":
                continue
            name = line["audioPath"].partition("/")[2].partition("-")[0]
            [row] = [row for row in rows[name] if row.audio == line["audioPath"]]
            found = [str(put.job_id) for put in servers[name].journal.appended() if str(put.sha256) == row.sha256]
            decision = ["--appended", *found] if found else ["--not-appended"]
            chosen = ("--batch", "m.csv", "--line", line["line"], "--config", "nightly.toml")
            settled = place.run("resolve", *chosen, *decision)
            assert settled.code in (0, 1), settled.err
            command = printed_commands(settled.out)[0]
        later = place.run(*command)
    assert later.code == 0, later.err
    for name, server in servers.items():
        check_appended(server.journal, rows[name])


def test_a_named_accounts_item_in_doubt_is_settled_by_its_job(place: Place) -> None:
    """`resolve --appended JOBID` asks the item's own account; the printed command then carries the batch on."""
    rows = write_rows(place)
    servers = serve_accounts(place, faults="[put]\nlost_answer = 1.0\n")
    words = ("--config", "nightly.toml", "--doubt-seconds", "1")
    assert place.run("run", "m.csv", *words, "--first", "2").code in (4, 6)
    command: list[str] = []
    for name, line in (("small", "2"), ("large", "3")):
        [put] = servers[name].journal.appended()
        chosen = ("--batch", "m.csv", "--line", line, "--config", "nightly.toml")
        wrong = place.run("resolve", *chosen, "--appended", "no-such-job")
        assert "knows no such job" in wrong.err
        settled = place.run("resolve", *chosen, "--appended", str(put.job_id))
        assert "accepted" in settled.out, settled.err
        [command] = printed_commands(settled.out)
    carried = place.run(*command)
    assert carried.code == 4, carried.err
    states = Counter(line["status"] for line in read_results(place.path("m.results.csv")))
    assert states["completed"] == 2
    for name, server in servers.items():
        sent = [str(put.sha256) for put in server.journal.appended()]
        assert sent.count(rows[name][0].sha256) == 1
