"""The description that the daemon serves says what the program does."""

import json
import re
from pathlib import Path
from typing import Any

import httpx2
import jsonschema_rs
import pytest
import yaml

import settled.http
from settled import ids, limits
from settled.amounts import Quantity
from settled.core.operations import Operations
from settled.errors import InvalidAmount, InvalidId
from settled.http.app import make_app
from settled.http.problems import PROBLEMS
from tests.http.conftest import FakeOperations, app_of, serving

TEXT = (Path(settled.http.__path__[0]) / "openapi.yaml").read_text()
API: dict[str, Any] = yaml.safe_load(TEXT)
OPERATIONS = [
    (path, method, operation)
    for path, item in API["paths"].items()
    for method, operation in item.items()
    if method != "parameters"
]
RESPONSES: dict[str, Any] = API["components"]["responses"]


def resolved(part: Any) -> Any:
    """Return a part of the description with what it refers to in place."""
    if isinstance(part, list):
        return [resolved(each) for each in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        found: Any = API
        for name in part["$ref"].removeprefix("#/").split("/"):
            found = found[name]
        return resolved(found)
    return {name: resolved(each) for name, each in part.items()}


def is_valid(schema: Any, value: object) -> bool:
    return jsonschema_rs.Draft202012Validator(resolved(schema)).is_valid(value)


async def test_the_daemon_serves_it(client: httpx2.AsyncClient) -> None:
    response = await client.get("/openapi.yaml")
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/yaml"  # RFC 9512
    assert response.text == TEXT


def test_it_has_the_routes_of_the_program() -> None:
    routes = {
        (re.sub(r"<account_id>", "{id}", rule.rule), method)
        for rule in make_app(FakeOperations()).url_map.iter_rules()  # type: ignore[arg-type]
        for method in rule.methods or ()
    }
    assert routes == {(path, method.upper()) for path, method, _ in OPERATIONS}


def test_it_has_the_problems_of_the_program() -> None:
    described = {}
    for response in RESPONSES.values():
        ((media_type, content),) = response["content"].items()
        assert media_type == "application/problem+json"
        only = content["schema"]["allOf"][1]["properties"]
        examples = content["examples"]
        assert only["type"]["enum"] == [example["value"]["type"] for example in examples.values()]
        for name, example in examples.items():
            described[name] = (example["value"]["title"], only["status"]["const"])
            assert is_valid(content["schema"], example["value"]), name
            assert example["value"]["type"].endswith(f":{name}")
            assert example["value"]["status"] == only["status"]["const"]
    assert described == {problem.name: (problem.title, problem.status) for problem in PROBLEMS}
    for problem in PROBLEMS:
        assert not problem.advice or json.dumps(problem.advice) in TEXT, problem.name


@pytest.mark.parametrize(
    ("path", "method", "operation"), OPERATIONS, ids=lambda part: str(part)[:40]
)
def test_an_operation_has_each_answer_at_its_status(
    path: str, method: str, operation: dict[str, Any]
) -> None:
    for status, response in operation["responses"].items():
        if int(status) >= 400:
            schema = resolved(response)["content"]["application/problem+json"]["schema"]
            assert schema["allOf"][1]["properties"]["status"]["const"] == int(status)
    assert {"403", "405", "408", "413", "500"} <= set(operation["responses"])


def test_every_response_and_schema_is_used() -> None:
    for kind, parts in API["components"].items():
        for name in parts:
            assert f'"#/components/{kind}/{name}"' in TEXT, name


@pytest.mark.parametrize("name", ["Quantity", "Settlement"])
@pytest.mark.parametrize(
    ("amount", "scale"),
    [
        ("1", 0),
        ("1", limits.SCALE_MAX),
        ("1", limits.SCALE_MAX + 1),
        ("1", -1),
        ("1", 1.5),
        ("1", True),
        ("1", "1"),
        ("0", 0),
        ("000", 0),
        ("007", 0),
        ("", 0),
        ("-1", 0),
        ("1e3", 0),
        ("1.5", 0),
        ("٣", 0),
        ("9" * limits.AMOUNT_DIGITS_MAX, 0),
        ("9" * (limits.AMOUNT_DIGITS_MAX + 1), 0),
        (1, 0),
    ],
)
def test_it_draws_the_bounds_of_a_quantity_where_the_program_does(
    name: str, amount: Any, scale: Any
) -> None:
    try:
        taken = Quantity(amount, scale).value > 0 or name == "Quantity"
    except InvalidAmount:
        taken = False
    schema = API["components"]["schemas"][name]
    assert is_valid(schema, {"amount": amount, "scale": scale}) == taken


IDS = ["a", "A-Z.a_z~9", ".", "..", "...", "", "a b", "a/b", "ä", "a\n", "x" * 255, "x" * 256, " a"]


@pytest.mark.parametrize("text", IDS)
def test_it_draws_the_bounds_of_ids_where_the_program_does(text: str) -> None:
    for schema, check in (
        (API["components"]["schemas"]["AccountId"], ids.check_account_id),
        (API["components"]["parameters"]["IdempotencyKey"]["schema"], ids.check_key),
    ):
        try:
            taken = check(text) == text
        except InvalidId:
            taken = False
        assert is_valid(schema, text) == taken


def test_its_limits_are_those_of_the_program() -> None:
    messages = API["paths"]["/accounts/{id}/messages"]["post"]
    body = messages["requestBody"]["content"]["application/octet-stream"]["schema"]
    assert body["maxLength"] == limits.BODY_BYTES_MAX
    assert f"longer than {limits.MESSAGE_HANDLER_TIMEOUT_S} seconds" in messages["description"]


async def test_its_examples_work(operations: Operations) -> None:
    async with serving(app_of(operations)) as served, served.client() as client:
        for path, method, operation in OPERATIONS:
            content = operation.get("requestBody", {}).get("content", {})
            for media_type, body in content.items() or [(None, {"examples": {"none": None}})]:
                for example in body["examples"].values():
                    value = example and example["value"]
                    response = await client.request(
                        method,
                        path.replace("{id}", "alice"),
                        content=value if isinstance(value, str | None) else json.dumps(value),
                        headers={"Idempotency-Key": "k"}
                        | ({"Content-Type": media_type} if media_type else {}),
                    )
                    described = resolved(operation["responses"][str(response.status_code)])
                    assert response.status_code < 300, (path, response.text)
                    if "application/json" in described.get("content", {}):
                        schema = described["content"]["application/json"]["schema"]
                        assert is_valid(schema, response.json())
                    if method == "delete":
                        await client.post("/accounts", json={"id": "alice"})


def test_the_page_of_the_api_names_the_limits_of_the_program() -> None:
    page = (Path(settled.__file__).parents[1] / "docs/http.md").read_text()
    for limit in (
        f"| {limits.STREAMS_MAX} |",
        f"| {limits.IDLE_FRAMES_MAX}, and {limits.IDLE_FRAMES_PER_ANSWER} for each answer |",
        f"| {limits.CONNECTIONS_MAX:,}, or half",
        f"| {limits.SPEAKING_MAX} |",
        f"at {limits.REQUEST_BYTES // 1024} KiB each",
        f"| {limits.REQUESTS_BYTES_MAX // 1024**2} MiB |",
        f"| {limits.SILENCE_S} s |",
    ):
        assert limit in page, limit
