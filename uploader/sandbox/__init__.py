"""Plays the service on loopback, with faults on request and a journal of what reached it."""

from uploader.sandbox.fault_plan import JOB_ID_PREFIX
from uploader.sandbox.faults import CallFaults, Faults, JobFaults, PollFaults, PutFaults
from uploader.sandbox.faults_file import load_faults
from uploader.sandbox.journal import Journal
from uploader.sandbox.server import Sandbox, serve
from uploader.sandbox.settings import SandboxSettings

__all__ = [
    "JOB_ID_PREFIX",
    "CallFaults",
    "Faults",
    "JobFaults",
    "Journal",
    "PollFaults",
    "PutFaults",
    "Sandbox",
    "SandboxSettings",
    "load_faults",
    "serve",
]
