"""The words of providers: of errors, and of the ends of answers. One table for all.

An error is told by what it says before its status counts, because providers disagree on statuses:
"too long" comes with 400, 413, 422 or 500, a wrong key with 400, 401 or 403, an empty account with
400, 402, 403, 412 or 429. The first row that fits is the error's kind.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

from routoo.client.formats.wire_format import ErrorKind
from routoo.domain.completion import FinishReason


@dataclass(frozen=True, slots=True)
class Wording:
    """How errors of one kind are worded."""

    kind: ErrorKind
    codes: frozenset[str] = frozenset()
    """Values of the error's code, type, status or reason, in lower case."""
    phrases: re.Pattern[str] | None = None
    """What its message holds."""
    statuses: frozenset[int] | None = None
    """Statuses with which the phrases count; None for all."""

    def fits(self, codes: Collection[str], message: str, status: int) -> bool:
        """Return whether an error is worded so; its codes are in lower case."""
        if not self.codes.isdisjoint(codes):
            return True
        if self.phrases is None or (self.statuses is not None and status not in self.statuses):
            return False
        return self.phrases.search(message) is not None


def any_of(*phrases: str) -> re.Pattern[str]:
    """Return a pattern that finds any of some phrases, whatever their case."""
    return re.compile("|".join(phrases), re.IGNORECASE | re.DOTALL)


_REFUSALS = frozenset({400, 403, 413, 422, 451})
_OF_CONTEXT = frozenset({400, 413, 422, 500})
_OF_SERVERS = frozenset({403, 500, 502, 503, 529})

WORDINGS = (
    Wording(
        # A limit a minute that is smaller than this one request: no wait helps.
        ErrorKind.REQUEST,
        phrases=any_of(r"request too large for model"),  # OpenAI, Groq
    ),
    Wording(
        # A page of a firewall, which may dislike this prompt alone.
        ErrorKind.REQUEST,
        phrases=any_of(r"^\s*<(?:!doctype|html|head)"),
        statuses=frozenset({403, 406}),
    ),
    Wording(
        ErrorKind.CONTENT_FILTER,
        frozenset(
            {
                "content_filter",  # OpenAI, Azure, Moonshot
                "content_policy_violation",
                "contentpolicyviolationerror",  # LiteLLM
                "responsibleaipolicyviolation",  # Azure
                "moderation_blocked",
                "invalid_prompt",  # OpenAI's reasoning models
                "data_inspection_failed",  # Alibaba
                "datainspectionfailed",
                "prohibited_content",  # Gemini
                "guardrail_intervened",  # Bedrock
                "1301",  # Zhipu
            }
        ),
        any_of(
            r"content management policy|content[_ -]filter",
            r"rejected as a result of (?:our|the) safety system",
            r"violat\w+ (?:our |the )?(?:usage|content) (?:polic|guideline)",
            r"input was flagged|flagged (?:for|as) ",  # OpenRouter
            r"content exists risk",  # DeepSeek
            r"considered high risk",  # Moonshot
            r"may contain inappropriate content",  # Alibaba
            r"blocked by .{0,40}(?:safety|guardrail|moderation)",
        ),
        _REFUSALS | {404, 500},
    ),
    Wording(
        ErrorKind.CONTEXT_LENGTH,
        frozenset(
            {
                "context_length_exceeded",  # OpenAI, Groq, Cerebras, Together
                "contextwindowexceedederror",  # LiteLLM
                "exceed_context_size_error",  # llama.cpp
                "string_above_max_length",  # OpenAI
                "string_too_long",  # OpenRouter
                "tokens_limit_reached",  # GitHub Models
                "model_max_prompt_tokens_exceeded",  # Copilot
                "1261",  # Zhipu
            }
        ),
        any_of(
            r"maximum context length|max(?:imum)? (?:prompt|model|sequence) length",  # vLLM, xAI
            r"context (?:length|window|size|limit)\b.{0,40}\bexceed",
            r"exceed\w*\b.{0,60}\bcontext (?:length|window|size|limit)",
            r"(?:prompt|input|request)(?: \([^)]*\))? is too (?:long|large)",  # Anthropic, Bedrock
            r"longer than the (?:model'?s )?(?:maximum )?(?:context|model length)",  # SGLang
            r"context length (?:is |of )?only",  # vLLM, LM Studio
            r"token count.{0,40}exceeds the (?:maximum|limit)",  # Gemini, Copilot
            r"input token count is \d+ but",  # Vertex
            r"tokens?`? \+ `?max_new_tokens",  # TGI, Together
            r"must have less than \d+ tokens",  # TGI
            r"too many (?:input )?tokens(?!,? please (?:wait|try))",  # Bedrock, Cohere
            r"tokens you requested exceeds? the model",  # Bedrock
            r"range of input length",  # Alibaba
            r"exceeded model token limit",  # Moonshot
            r"prompt exceeds max length",  # Zhipu
            r"reduce the length of the (?:messages|prompt|input)",  # OpenAI, Groq
            r"request body too large",  # GitHub Models
        ),
        _OF_CONTEXT,
    ),
    Wording(
        ErrorKind.NO_CREDIT,
        frozenset(
            {
                "insufficient_quota",  # OpenAI
                "billing_hard_limit_reached",
                "billing_not_active",
                "exceeded_current_quota_error",  # Moonshot
                "insufficient_balance",
                "insufficient_credits",
                "payment_required",
                "budget_exceeded",  # LiteLLM
                "arrearage",  # Alibaba
                "enforced_spend_limit_reached",  # Anthropic, 429
                "billing_error",  # Anthropic
                "1113",  # Zhipu
            }
        ),
        any_of(
            r"insufficient[ _](?:balance|credits?|funds|quota)",  # DeepSeek, OpenRouter
            r"credit balance is too low",  # Anthropic
            r"reached your specified .{0,40}usage limits?",  # Anthropic
            r"(?:spending|billing|key|credit) limit (?:has been )?(?:exceeded|reached)",
            r"account .{0,80}is suspended",  # Fireworks, Moonshot
            r"budget has been exceeded",  # LiteLLM
            r"account is in good standing",  # Alibaba
            r"add more credits|requires more credits",  # OpenRouter
        ),
        frozenset({400, 401, 402, 403, 412, 429}),
    ),
    Wording(
        ErrorKind.UNAUTHORIZED,
        frozenset(
            {"invalid_api_key", "api_key_invalid", "authentication_error", "unauthenticated"}
        ),
        any_of(
            r"(?:incorrect|invalid|missing|no) api[ -]?key",  # xAI
            r"api[ -]?key (?:is )?(?:not valid|invalid|not found|missing|expired|disabled)",
        ),
        frozenset({400, 401, 403}),
    ),
    Wording(
        ErrorKind.FORBIDDEN,
        frozenset(
            {"permission_error", "accessdeniedexception", "unsupported_country_region_territory"}
        ),
        any_of(r"don'?t have access to the model", r"not allowed to (?:sample|access|use)"),
        frozenset({400, 403}),
    ),
    Wording(
        ErrorKind.MISCONFIGURED,
        frozenset(
            {
                "model_not_found",  # OpenAI, Groq
                "deploymentnotfound",  # Azure
                "not_found_error",  # Anthropic
                "invalid_model",  # Mistral
                "model_decommissioned",  # Groq
                "model_not_available",  # Together
            }
        ),
        any_of(
            r"the model [^ ]{1,100} (?:does not exist|has been (?:deprecated|decommissioned))",
            r"model [^ ]{1,100} not found",  # Ollama
            r"model not (?:exist|found)",  # DeepSeek, Fireworks
            r"is not a valid model id|invalid model(?: name|:| id)",  # OpenRouter, LiteLLM
        ),
        frozenset({400, 404}),
    ),
    Wording(
        # No API stands at this address.
        ErrorKind.NO_API,
        phrases=any_of(
            r"^\s*(?:<|$)",
            r"^\W*(?:404 )?(?:page |file |path |route |resource )?not found\W*$",
            r"invalid url",  # OpenAI
            r"no route",
            r"method not allowed",
        ),
        statuses=frozenset({404, 405}),
    ),
    Wording(
        ErrorKind.OVERLOADED,
        frozenset(
            {
                "overloaded_error",  # Anthropic, 529
                "engine_overloaded_error",  # Moonshot
                "server_overloaded",
                "insufficient_system_resource",  # DeepSeek
                "model_loading",
            }
        ),
        any_of(r"\boverloaded\b", r"(?:currently|is|still) loading|loading (?:the )?model"),
        _OF_SERVERS | {429},
    ),
    Wording(
        ErrorKind.RATE_LIMIT,
        frozenset(
            {
                "rate_limit_exceeded",  # OpenAI, Groq
                "rate_limit_error",  # Anthropic
                "rate_limit_reached_error",  # Moonshot
                "rate_limited",
                "ratelimitreached",
                "ratelimitexceeded",  # Google
                "ratelimiterror",
                "too_many_requests",
                "toomanyrequests",
                "throttling",  # Alibaba
                "throttling.ratequota",
                "throttlingexception",  # Bedrock
                "throttling_error",  # LiteLLM
                "resource_exhausted",  # Gemini
                "resourceexhausted",
            }
        ),
        any_of(
            r"rate[- ]limit",
            r"too many requests",
            r"throttl",
            r"resource ?(?:has been )?exhausted",
        ),
        _OF_SERVERS,
    ),
)

_FILTERED, _CUT, _ERROR = FinishReason.CONTENT_FILTER, FinishReason.LENGTH, FinishReason.ERROR
_TOOLS, _STOP = FinishReason.TOOL_CALLS, FinishReason.STOP
FINISH_REASONS = {
    "stop": _STOP,
    "stop_sequence": _STOP,  # Anthropic
    "end_turn": _STOP,
    "eos": _STOP,  # Together
    "eos_token": _STOP,  # TGI
    "complete": _STOP,  # Cohere
    "length": _CUT,
    "max_tokens": _CUT,  # Anthropic, Gemini
    "max_output_tokens": _CUT,
    "model_length": _CUT,  # Mistral
    "model_context_window_exceeded": _CUT,
    "tool_calls": _TOOLS,
    "tool_call": _TOOLS,
    "tool_use": _TOOLS,
    "function_call": _TOOLS,
    "content_filter": _FILTERED,
    "content_filtered": _FILTERED,
    "safety": _FILTERED,  # Gemini, with those that follow
    "prohibited_content": _FILTERED,
    "recitation": _FILTERED,
    "blocklist": _FILTERED,
    "spii": _FILTERED,
    "image_safety": _FILTERED,
    "language": _FILTERED,
    "refusal": _FILTERED,  # Anthropic
    "sensitive": _FILTERED,  # Zhipu
    "guardrail_intervened": _FILTERED,  # Bedrock
    "error_toxic": _FILTERED,  # Cohere
    "error": _ERROR,  # OpenRouter
    "network_error": _ERROR,  # Zhipu
    "insufficient_system_resource": _ERROR,  # DeepSeek
    "abort": _ERROR,  # vLLM, SGLang
    "cancelled": _ERROR,
    "timeout": _ERROR,
    "malformed_function_call": _ERROR,  # Gemini
    "unexpected_tool_call": _ERROR,
}
"""Why an answer ended, in lower case, with underscores."""


def finish_reason_of(said: object) -> FinishReason | None:
    """Return why an answer ended; None where the word is unknown, or none.

    Case, hyphens and a name before a dot or colon don't count: "content-filter" is OpenAI's
    `content_filter`, "FinishReason.SAFETY" Gemini's `SAFETY`.
    """
    if not isinstance(said, str):
        return None
    word = re.split(r"[.:]\s*", said.strip())[-1]
    return FINISH_REASONS.get(word.lower().replace("-", "_").replace(" ", "_"))


def kind_of(codes: Collection[str], message: str, status: int) -> ErrorKind | None:
    """Return what an error is about; None where only its status tells."""
    known = {code.lower() for code in codes}
    return next((row.kind for row in WORDINGS if row.fits(known, message, status)), None)
