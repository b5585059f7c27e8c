"""The HTTP interface: routes for each dialect, and what a reply says of an error."""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from mpo_lite.errors import BudgetReached, Unavailable
from mpo_lite.rubric import dump_rubric
from mpo_lite.service.batches import Score, Submission
from mpo_lite.service.dialects import (
    OpenRLHFRequest,
    RewardReply,
    RewardRequest,
    SlimeRequest,
    VerifyRequest,
    openrlhf_reply,
    reward_reply,
    verify_reply,
)
from mpo_lite.service.limits import Limits
from mpo_lite.service.metrics import Metrics
from mpo_lite.service.owner import RubricOwner

HOLD_S = 90.0
"""How long engines that give up after a few refusals wait for a judge that is down; their clients' own limits
are 120 s and more.
"""
REMEMBERED = 4096
"""Named requests whose outcome is kept for clients that send them again."""
DESCRIPTION = "Rewards by a rubric that evolves while the policy trains. A failed judgement is never a score."


class Scoring:
    """Scores requests; one that is sent again under the same name is scored once.

    Args:
        owner: Judges.
        metrics: Counts.
    """

    def __init__(self, owner: RubricOwner, metrics: Metrics) -> None:
        self._owner, self._metrics = owner, metrics
        self._named: OrderedDict[str, asyncio.Task[list[Score]]] = OrderedDict()

    async def hold(self, submissions: Sequence[Submission]) -> list[Score]:
        """Scores answers for an engine that needs a number and hardly tries again: fills, and waits out a
        judge that is down.
        """
        deadline = time.monotonic() + HOLD_S
        while True:
            try:
                return await self.score(submissions, fill=True)
            except Unavailable as error:
                is_down = self._owner.breaker.problem and not self._owner.is_stopping
                if not is_down or time.monotonic() + error.retry_after_s > deadline:
                    raise
            await asyncio.sleep(1)

    async def score(self, submissions: Sequence[Submission], fill: bool, name: str = "") -> list[Score]:
        """Scores answers; see ``RubricOwner.score``."""
        task = self._named.get(name) if name else None
        if task is None or (task.done() and task.exception()):
            task = asyncio.ensure_future(self._score_and_count(submissions, fill))
            if name:
                self._named[name] = task
            while len(self._named) > REMEMBERED:
                self._named.popitem(last=False)
        with self._metrics.timed():
            # Shielded: what is paid for is finished and journalled, whether or not the client waits for it.
            return await asyncio.shield(task)

    async def _score_and_count(self, submissions: Sequence[Submission], fill: bool) -> list[Score]:
        scores = await self._owner.score(submissions, fill)
        self._metrics.count(scores)
        return scores


def make_app(owner: RubricOwner, token: str, max_bytes: int, body_timeout_s: float) -> FastAPI:
    """The service as an ASGI application.

    Args:
        owner: Judges; started.
        token: What clients must send; empty: nothing.
        max_bytes: Largest body of a request.
        body_timeout_s: Seconds within which a body must have come.
    """
    app = FastAPI(title="mpo-lite", version=version("mpo-lite"), description=DESCRIPTION)
    metrics = Metrics(owner)
    scoring = Scoring(owner, metrics)
    app.add_exception_handler(Unavailable, _reply_unavailable)
    app.add_exception_handler(BudgetReached, _reply_budget_reached)
    _add_rewards(app, scoring)
    _add_engines(app, scoring)
    _add_state(app, owner, metrics)
    app.add_middleware(Limits, token=token, max_bytes=max_bytes, body_timeout_s=body_timeout_s)
    return app


def _add_rewards(app: FastAPI, scoring: Scoring) -> None:
    @app.post("/v1/rewards", summary="Rewards for answers")
    async def rewards(request: RewardRequest) -> RewardReply:  # pyright: ignore[reportUnusedFunction]
        return reward_reply(await scoring.score(request.submissions(), request.fill, request.id))


def _add_engines(app: FastAPI, scoring: Scoring) -> None:
    @app.post("/openrlhf", summary="OpenRLHF: --reward.remote_url")
    async def openrlhf(request: OpenRLHFRequest) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return openrlhf_reply(await scoring.hold(request.submissions()))

    @app.post("/slime", summary="slime, miles: --rm-type remote_rm --rm-url")
    async def slime(request: SlimeRequest, key: str = "") -> Any:  # pyright: ignore[reportUnusedFunction]
        (score,) = await scoring.hold([request.submission()])
        return {key: score.reward, "version": score.version} if key else score.reward

    @app.post("/verify", summary="NeMo-Gym resources server")
    async def verify(request: VerifyRequest) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        (score,) = await scoring.hold([request.submission()])
        return verify_reply(request, score)

    @app.post("/seed_session", summary="NeMo-Gym: nothing to seed")
    async def seed_session() -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return {}


def _add_state(app: FastAPI, owner: RubricOwner, metrics: Metrics) -> None:
    @app.post("/v1/batch/close", summary="End the current batch")
    async def close_batch() -> dict[str, int | None]:  # pyright: ignore[reportUnusedFunction]
        return {"batch": owner.close_batch()}

    @app.get("/v1/rubric", summary="The current rubric, as YAML", response_class=PlainTextResponse)
    async def rubric() -> PlainTextResponse:  # pyright: ignore[reportUnusedFunction]
        version = owner.session.state.version
        headers = {"x-mpo-version": str(version.number)}
        return PlainTextResponse(dump_rubric(version.rubric), media_type="application/yaml", headers=headers)

    @app.get("/v1/status", summary="Where the run stands")
    async def status() -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return owner.status()

    @app.get("/metrics", summary="Prometheus metrics", response_class=PlainTextResponse)
    async def read_metrics() -> Response:  # pyright: ignore[reportUnusedFunction]
        return Response(metrics.render(), media_type=metrics.content_type)

    @app.get("/healthz", summary="Whether rewards can be given now")
    async def healthz() -> JSONResponse:  # pyright: ignore[reportUnusedFunction]
        problem = "stopping" if owner.is_stopping else owner.breaker.problem
        return JSONResponse({"ok": not problem}, 503 if problem else 200)


async def _reply_unavailable(request: Request, error: Exception) -> JSONResponse:
    seconds = error.retry_after_s if isinstance(error, Unavailable) else 1
    return JSONResponse({"error": str(error)}, 503, headers={"retry-after": str(max(1, math.ceil(seconds)))})


async def _reply_budget_reached(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": str(error)}, 429)
