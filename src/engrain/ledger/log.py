"""What happened, before any lesson: the verbatim log of conversations, and jobs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy.orm import Session

from engrain.data.messages import Conversation
from engrain.errors import HomeLockedError, LedgerError, UnknownNameError, UsageError
from engrain.ledger import tables
from engrain.ledger.identifiers import resolve
from engrain.ledger.lock import process_alive, process_start
from engrain.ledger.records import END_STAGES, STAGES, ConversationEntry, Job, canonical_bytes
from engrain.ledger.schema import ConversationRow, JobRow
from engrain.ledger.store import Store

INLINE_BYTES = 2048
"""Payloads of job stages above this size are kept as blobs."""


class Log(Store):
    """Conversations and jobs."""

    # Conversations

    def add_conversation(self, conversation: Conversation) -> str:
        """Keep a conversation verbatim and return its digest; the same again changes nothing."""
        digest = conversation.digest
        with self._write("log a conversation", locked=False) as session:
            if session.get(ConversationRow, digest) is None:
                payload = {
                    "digest": digest,
                    "head": tables.add_messages(session, conversation),
                    "length": len(conversation),
                }
                tables.append_event(session, "conversation_added", payload, self._now())
        return digest

    def get_conversation(self, digest: str) -> Conversation:
        """A conversation by its digest or a unique prefix of it, checked against that digest.

        Raises:
            UnknownNameError: it was never added.
            LedgerError: a message is gone or was changed.
        """
        with self._database.reading() as session:
            entries = {entry.digest: entry for entry in tables.read_conversations(session)}
            found = [entries[key] for key in entries if digest and key.startswith(digest)]
            if len(found) != 1:
                raise UnknownNameError("conversation", digest, [key[:12] for key in entries][-12:])
            return tables.read_conversation(session, found[0])

    def list_conversations(self) -> list[ConversationEntry]:
        """All conversations of the log, without their text, oldest first."""
        with self._database.reading() as session:
            return tables.read_conversations(session)

    # Jobs

    def create_job(self, kind: str, payload: Mapping[str, Any] | None = None) -> str:
        """Note a piece of work that this process begins; returns its id."""
        with self._write(f"begin a job ({kind})") as session:
            job_id = self._new_id(session)
            body = {"job": job_id, "kind": kind, "payload": dict(payload or {})}
            tables.append_event(session, "job_created", body, self._now())
            self._own(session, job_id)
        return job_id

    def advance(self, job_id: str, stage: str, payload: Mapping[str, Any] | None = None) -> Job:
        """Note that a job has reached a stage, with what a resume needs.

        The same call again changes nothing. Stages may be left out, but not gone back to;
        ``committed`` is reached by :meth:`commit` alone.

        Raises:
            UsageError: the job has ended, or is beyond that stage.
            LedgerError: the stage is recorded with another payload.
        """
        if stage not in (*STAGES, "failed"):
            raise UnknownNameError("stage", stage, (*STAGES, "failed"))
        body = dict(payload or {})
        raw = canonical_bytes(body)
        large = len(raw) > INLINE_BYTES
        blob = self.blobs.put(raw) if large else None
        with self._write(f"advance a job ({stage})") as session:
            job = self._job(session, job_id)
            known = next((item for item in job.stages if item.stage == stage), None)
            if known is None:
                self._check_order(job, stage)
                event = {"job": job.id, "stage": stage, "payload": None if large else body}
                tables.append_event(session, "job_advanced", {**event, "blob": blob}, self._now())
                self._own(session, job.id)
            elif (known.blob, canonical_bytes(known.payload)) != (
                blob,
                canonical_bytes(None if large else body),
            ):
                raise LedgerError(
                    f"Job {job.id} has reached {stage} before, with another payload.",
                    remedy="Resume from what the stage holds: Ledger.stage_payload.",
                )
        return self.get_job(job_id)

    def take_job(self, job_id: str) -> Job:
        """Make this process the one that works on a job, in order to resume it.

        Raises:
            UsageError: the job has ended.
            HomeLockedError: the process that works on it is alive.
        """
        with self._write("resume a job") as session:
            job = self._job(session, job_id)
            if job.finished:
                raise UsageError(
                    f"Job {job.id} has ended ({job.stage}).",
                    remedy="Learn again to begin a new one.",
                )
            if job.status == "running" and job.pid != os.getpid():
                raise HomeLockedError(
                    f"Process {job.pid} is working on job {job.id}.",
                    remedy=f"Wait until process {job.pid} is done, or stop it.",
                    pid=job.pid,
                )
            self._own(session, job.id)
        return self.get_job(job.id)

    def get_job(self, name: str) -> Job:
        """A job by its id, a unique prefix of it, or ``last``."""
        with self._database.reading() as session:
            return self._job(session, name)

    def list_jobs(self, *, status: str | None = None) -> list[Job]:
        """All jobs, oldest first, or those that are ``running``, ``interrupted``, ..."""
        with self._database.reading() as session:
            jobs = self._jobs(session)
        return [job for job in jobs if status in (None, job.status)]

    def stage_payload(self, job_id: str, stage: str) -> dict[str, Any]:
        """What was noted when the job reached a stage.

        Raises:
            UnknownNameError: it has not reached that stage.
        """
        job = self.get_job(job_id)
        for item in job.stages:
            if item.stage == stage and item.blob is not None:
                return dict(json.loads(self.blobs.get(item.blob)))
            if item.stage == stage:
                return dict(item.payload or {})
        raise UnknownNameError("stage", stage, [item.stage for item in job.stages])

    def _jobs(self, session: Session) -> list[Job]:
        return [
            replace(job, pid=pid, status=_job_status(job, pid, started))
            for job, pid, started in tables.read_jobs(session)
        ]

    def _job(self, session: Session, name: str) -> Job:
        jobs = {job.id: job for job in self._jobs(session)}
        if name.strip().lower() == "last" and jobs:
            return list(jobs.values())[-1]
        return jobs[resolve("job", name, jobs)]

    def _own(self, session: Session, job_id: str) -> None:
        row = session.get_one(JobRow, job_id)
        row.pid, row.started = os.getpid(), process_start(os.getpid())

    def _check_order(self, job: Job, stage: str) -> None:
        if job.finished:
            raise UsageError(
                f"Job {job.id} has ended ({job.stage}).", remedy="Learn again to begin a new one."
            )
        order = (*STAGES, *END_STAGES)
        if job.stage and order.index(stage) < order.index(job.stage):
            raise UsageError(
                f"Job {job.id} is at {job.stage}, beyond {stage}.",
                remedy="Resume it from its last stage.",
            )


def _job_status(job: Job, pid: int | None, started: str) -> str:
    if job.finished:
        return job.stage
    return "running" if pid is not None and process_alive(pid, started) else "interrupted"
