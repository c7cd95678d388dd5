"""Combinations of answers: all valid ones, and a few that contain every valid pair of answers."""

import itertools
import shlex
from collections.abc import Iterator
from functools import cache

from hooks.pre_gen_project import AWS, CHOICES, RETENTIONS, problems
from tests.helpers.support import Answers, defaults

# Examples for the answers that are free text, where the text makes a difference.
PAIRED = {
    **CHOICES,
    "cors_origins": ("", "*", "https://example.com, http://localhost:5173"),
    "reserved_concurrency": ("", "10"),
    "bedrock_model": ("global.amazon.nova-2-lite-v1:0", "amazon.nova-lite-v1:0"),
}
# Each of these only changes a number or a name, so pairs are enough.
SINGLE = {
    "jwt_issuer": ("https://issuer.example.com", "https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_EXAMPLE"),
    "jwt_audience": ("my-client", "https://api.example.com/"),
    "region": ("us-east-1", "eu-central-1", "ap-southeast-2"),
    "memory": ("512", str(AWS["memory"]["least"]), str(AWS["memory"]["most"])),
    "timeout": ("120", str(AWS["timeout"]["least"]), str(AWS["rest_api"]["timeout"]), str(AWS["timeout"]["most"])),
    "log_retention": ("30", str(RETENTIONS[0]), str(RETENTIONS[-1])),
}
OPTIONS = {**PAIRED, **SINGLE}
# The rules about two answers use only these, each rule options of one group; test_combinations.py proves it.
GROUPS = (
    ("example", "front_door", "url_auth", "timeout"),
    ("cors_origins", "cors_credentials"),
    ("runtime", "cold_start", "python_version"),
)
BOUND = tuple(itertools.chain(*GROUPS))

# Each is a separate line in the template, independent of the others, so that pairs are enough. With them the product
# would be four times as large.
ALONE = ("architecture", "reserved_concurrency")


def product(**fixed: str) -> Iterator[Answers]:
    """Every combination with these answers, including invalid ones; answers in `ALONE` are the defaults."""
    options = {name: [fixed[name]] if name in fixed else of for name, of in PAIRED.items() if name not in ALONE}
    for values in itertools.product(*options.values()):
        yield {**defaults(), **dict(zip(options, values, strict=True))}


def command(answers: Answers) -> str:
    """The command that generates the project of these answers."""
    given = (f"{option}={answer}" for option, answer in answers.items() if defaults()[option] != answer)
    return shlex.join(["cookiecutter", "--no-input", "--output-dir", "/tmp", ".", *given])


def name(answers: Answers) -> str:
    """A short name of a combination for the tests: the answers that are not the default."""
    return ",".join(str(answer) for option, answer in answers.items() if defaults()[option] != answer) or "defaults"


def possible(answers: Answers) -> bool:
    """Tell whether these answers are valid together with some answers to the other options."""
    return all(_possible(group, tuple(answers.get(option) for option in group)) for group in GROUPS)


@cache
def _possible(group: tuple[str, ...], values: tuple[str | None, ...]) -> bool:
    """Tell whether a group's answers are valid together; None is any answer."""
    answers = {option: value for option, value in zip(group, values, strict=True) if value is not None}
    free = {option: OPTIONS[option] for option in group if option not in answers}
    given = {**defaults(), **answers}
    return any(
        not problems({**given, **dict(zip(free, values, strict=True))}) for values in itertools.product(*free.values())
    )


def pairs() -> list[Answers]:
    """All pairs of answers to two options that can be combined."""
    return [
        {one: first, other: second}
        for (one, firsts), (other, seconds) in itertools.combinations(OPTIONS.items(), 2)
        for first, second in itertools.product(firsts, seconds)
        if possible({one: first, other: second})
    ]


@cache
def pairwise() -> tuple[Answers, ...]:
    """Combinations that contain all `pairs`, beginning with the defaults.

    Each further one begins with a pair that is still missing, and takes for each other option the answer that adds
    the most missing pairs.
    """
    order = sorted(OPTIONS, key=lambda option: -len(OPTIONS[option]))
    missing = {frozenset(pair.items()): None for pair in pairs()}
    found = [defaults()]

    def brings(answers: Answers, option: str, answer: str) -> int:
        return sum(frozenset((before, (option, answer))) in missing for before in answers.items())

    while True:
        for pair in itertools.combinations(found[-1].items(), 2):
            missing.pop(frozenset(pair), None)
        if not missing:
            return tuple(found)
        answers: Answers = dict(sorted(next(iter(missing))))
        for option in order:
            if option not in answers:
                good = [answer for answer in OPTIONS[option] if possible({**answers, option: answer})]
                answers[option] = max(good, key=lambda answer: brings(answers, option, answer))
        found.append({**defaults(), **answers})
