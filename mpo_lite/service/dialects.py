"""How engines ask for rewards over HTTP: each form of request as submissions, and scores as its reply.

Forms without a place for a missing reward have ``FILL``: an answer that could not be judged waits for its
group and gets the group's mean, so that it has no advantage. Sources: the engines' own clients, OpenRLHF
0.11 ``--reward.remote_url``, slime and miles ``--rm-type remote_rm``, NeMo-Gym resources servers.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Field

from mpo_lite.service.batches import Score, Submission

Content = str | list[dict[str, Any]]
"""A text, or messages of which the last one counts."""
_USER_TURN = re.compile(
    r"(?:<\|im_start\|>|<\|start_header_id\|>|<start_of_turn>|<\|)user(?:<\|end_header_id\|>|\|>)?\s*"
    r"(.*?)(?:<\|im_end\|>|<\|eot_id\|>|<end_of_turn>|<\|end\|>|$)",
    re.DOTALL,
)
"""A user's turn in the chat templates of Qwen, Llama, Gemma and Phi."""
_MARK = 200
"""Characters of a prompt's end by which it is recognised."""
_SPECIAL = re.compile(r"<\|[^|<>]{1,40}\|>|</?s>|<(?:bos|eos|pad|start_of_turn|end_of_turn)>")


class Answer(BaseModel):
    """An answer to judge.

    Attributes:
        prompt: The task prompt, as the judge is shown it.
        completion: The policy's answer.
        group: Name of its prompt group. Without one, answers to the same prompt that come together are one.
        truncated: The answer was cut off at the policy's token limit.
        reference: A correct answer, for tasks whose judge sees it.
        cluster: The kind of prompt.
    """

    prompt: Content
    completion: Content
    group: str | int = ""
    truncated: bool = False
    reference: str = ""
    cluster: str = ""


class RewardRequest(BaseModel):
    """Answers to judge.

    Attributes:
        answers: At least one.
        step: The client's training step. A later step begins a new batch.
        whole_groups: No further answer of these groups will come.
        fill: Whether an answer that cannot be judged gets its group's mean instead of null.
        id: Name of the request: sent again with the same name, it is answered the same and counted once.
    """

    model_config = ConfigDict(extra="forbid")

    answers: Annotated[list[Answer], Field(min_length=1)]
    step: int | None = None
    whole_groups: bool = False
    fill: bool = False
    id: str = ""

    def submissions(self) -> list[Submission]:
        """The answers as the owner takes them."""
        texts = [(last_text(answer.prompt), last_text(answer.completion)) for answer in self.answers]
        keys = [str(answer.group) or prompt for answer, (prompt, _) in zip(self.answers, texts, strict=True)]
        sizes = Counter(keys if self.whole_groups else ())
        return [
            Submission(
                *text,
                group=str(answer.group),
                group_size=sizes[key] or None,
                truncated=answer.truncated,
                step=self.step,
                reference=answer.reference,
                cluster=answer.cluster,
            )
            for answer, text, key in zip(self.answers, texts, keys, strict=True)
        ]


class Result(BaseModel):
    """What came of an answer.

    Attributes:
        reward: In [0, 1]; null where it could not be judged.
        version: Rubric version that it was judged by.
        batch: The batch that it belongs to.
        source: What decided: the judge, or a rule.
        failure: Why it could not be judged; null if it was.
        filled: The reward is its group's mean, because the answer could not be judged.
        levels: Criterion → level.
    """

    reward: float | None
    version: int
    batch: int
    source: str
    failure: str | None
    filled: bool
    levels: dict[str, int]


class RewardReply(BaseModel):
    """Rewards in the order of the answers, and what else is known of each.

    Attributes:
        rewards: In [0, 1], null where an answer could not be judged.
        version: The newest rubric version among them.
        results: Details.
    """

    rewards: list[float | None]
    version: int
    results: list[Result]


def reward_reply(scores: Sequence[Score]) -> RewardReply:
    """Scores as our own form of reply."""
    results = [
        Result(
            reward=score.reward,
            version=score.version,
            batch=score.batch,
            source=score.verdict.source,
            failure=score.verdict.failure,
            filled=score.is_filled,
            levels={name: assessment.level for name, assessment in score.verdict.assessments.items()},
        )
        for score in scores
    ]
    return RewardReply(
        rewards=[score.reward for score in scores],
        version=max(score.version for score in scores),
        results=results,
    )


class OpenRLHFRequest(BaseModel):
    """What OpenRLHF posts to ``--reward.remote_url``: one answer or more, each with its whole text.

    Attributes:
        query: Prompt and answer, special tokens included.
        prompts: The prompt of each.
        labels: The data set's label of each: a reference, or JSON with ``prompt``, ``reference``, ``group``
            and ``cluster``.
    """

    query: Annotated[list[str], Field(min_length=1)]
    prompts: list[str]
    labels: list[Any] = Field(default_factory=list[Any])

    def submissions(self) -> list[Submission]:
        """The answers as the owner takes them."""
        labels = [*self.labels, *[None] * (len(self.query) - len(self.labels))]
        return [
            _labelled(last_user_turn(prompt), _SPECIAL.sub("", answer_after(prompt, query)).strip(), label)
            for query, prompt, label in zip(self.query, self.prompts, labels, strict=True)
        ]


def openrlhf_reply(scores: Sequence[Score]) -> dict[str, Any]:
    """Scores as OpenRLHF reads them."""
    rewards = [score.reward for score in scores]
    extra = {
        "mpo_version": [score.version for score in scores],
        "mpo_filled": [int(score.is_filled) for score in scores],
    }
    return {"rewards": rewards, "scores": rewards, "extra_logs": extra}


class SlimeRequest(BaseModel):
    """What slime and miles post with ``--rm-type remote_rm``: one answer.

    Attributes:
        prompt: Text or messages.
        response: The answer.
        label: A reference, or JSON as for OpenRLHF.
    """

    prompt: Content
    response: str
    label: Any = None

    def submission(self) -> Submission:
        """The answer as the owner takes it."""
        prompt = last_user_turn(self.prompt) if isinstance(self.prompt, str) else last_text(self.prompt)
        return _labelled(prompt, _SPECIAL.sub("", self.response).strip(), self.label)


class VerifyRequest(BaseModel):
    """What NeMo-Gym posts to ``/verify``: the row of the data set with the policy's response.

    Attributes:
        responses_create_params: What the policy was asked; its ``input`` holds the messages.
        response: An OpenAI Responses object.
    """

    model_config = ConfigDict(extra="allow")

    responses_create_params: dict[str, Any]
    response: dict[str, Any]

    def submission(self) -> Submission:
        """The answer as the owner takes it; its group is the row's task index, if it has one."""
        asked: Any = self.responses_create_params.get("input", "")
        row = self.model_extra or {}
        index = row.get("_ng_task_index", row.get("task_index"))
        details: Any = self.response.get("incomplete_details") or {}
        return Submission(
            str(row.get("task_prompt") or last_text(asked)),
            _response_text(self.response),
            group="" if index is None else f"task-{index}",
            truncated=details.get("reason") == "max_output_tokens",
            reference=str(row.get("reference") or ""),
            cluster=str(row.get("cluster") or ""),
        )


def verify_reply(request: VerifyRequest, score: Score) -> dict[str, Any]:
    """A score as NeMo-Gym reads it: the row with its reward. An answer that could not be judged is marked, so
    that evaluations leave it out.
    """
    failed: dict[str, Any] = {}
    if score.verdict.failure:
        failed = {
            "_ng_failure_class": "judge_failed",
            "_ng_failure_judge_error": score.verdict.failure,
        }
    return {
        **request.model_dump(),
        "reward": score.reward,
        "mpo_version": score.version,
        "mpo_filled": score.is_filled,
        **failed,
    }


def last_text(content: Content) -> str:
    """A text as it is, or that of the last message."""
    if isinstance(content, str):
        return content
    inner: Any = content[-1].get("content", "") if content else ""
    if isinstance(inner, str):
        return inner
    parts = cast("list[dict[str, Any]]", inner)
    return "".join(str(part.get("text", "")) for part in parts)


def last_user_turn(prompt: str) -> str:
    """What the user asked last in a prompt that was put through a chat template; else the text as it is."""
    turns = _USER_TURN.findall(prompt)
    return _SPECIAL.sub("", turns[-1] if turns else prompt).strip()


def answer_after(prompt: str, query: str) -> str:
    """What follows the prompt in a text that was decoded from the tokens of both.

    Decoding need not give the prompt back to the letter: tokens are added, blanks change, and a prompt that
    is too long loses its beginning. Its end then marks the place.
    """
    if query.startswith(prompt):
        return query.removeprefix(prompt)
    _, mark, answer = query.partition(prompt.strip()[-_MARK:])
    return answer if mark else query


def _labelled(prompt: str, completion: str, label: Any) -> Submission:
    """A submission with what a label says of its prompt: JSON, or else the reference."""
    said: Any = label
    if isinstance(label, str) and label.startswith("{"):
        try:
            said = json.loads(label)
        except ValueError:
            said = label
    if not isinstance(said, dict):
        return Submission(prompt, completion, reference="" if said is None else str(said))
    fields = cast(dict[str, Any], said)
    return Submission(
        str(fields.get("prompt") or prompt),
        completion,
        group=str(fields.get("group") or ""),
        reference=str(fields.get("reference") or ""),
        cluster=str(fields.get("cluster") or ""),
    )


def _response_text(response: dict[str, Any]) -> str:
    """The text of an OpenAI Responses object."""
    outputs = cast("list[dict[str, Any]]", response.get("output") or [])
    messages = [output for output in outputs if output.get("type") == "message"]
    return last_text(messages[-1:])
