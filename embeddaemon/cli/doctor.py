"""``doctor``: runs the checks and says what is wrong and how to mend it."""

from __future__ import annotations

import os

import click

from embeddaemon.cli import connect
from embeddaemon.cli.checks import Finding, State, all_checks
from embeddaemon.cli.console import Exit, put, put_json


@click.command(name="doctor", short_help="Say what this machine has, and what is wrong with it.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@connect.endpoint_option
@click.pass_context
def doctor_command(ctx: click.Context, *, as_json: bool, endpoint: str | None) -> None:
    """Look at everything the daemon needs: processor, memory, libraries, fork server, model, configuration, endpoint.

    Takes some seconds: it really starts the process that workers come from. Exit code 1 when something is broken.
    """
    findings: list[Finding] = []
    for check in all_checks(os.environ, endpoint):
        finding = check()
        findings.append(finding)
        if not as_json:
            _put(finding)
    broken = [finding.name for finding in findings if finding.state is State.BROKEN]
    if as_json:
        put_json({"ok": not broken, "checks": [_as_map(finding) for finding in findings]})
    else:
        put("")
        put(f"broken: {', '.join(broken)}" if broken else "everything that is needed is there")
    ctx.exit(Exit.FAILED if broken else Exit.OK)


def _put(finding: Finding) -> None:
    put(f"{finding.state.value:<7} {finding.name:<14} {finding.found}")
    for line in finding.more:
        put(f"{'':<22} {line}")
    if finding.remedy:
        put(f"{'':<22} → {finding.remedy}")


def _as_map(finding: Finding) -> dict[str, object]:
    return {
        "check": finding.name,
        "state": finding.state.value,
        "found": finding.found,
        "remedy": finding.remedy,
        "more": list(finding.more),
    }
