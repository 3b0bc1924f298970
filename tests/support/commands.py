"""Commands as a person types them, run in this process."""

from typer.testing import CliRunner, Result

from selector.cli import app


def run(*words: object, **environment: str) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], env=environment)


def ok(*words: object, **environment: str) -> Result:
    result = run(*words, **environment)
    assert result.exit_code == 0, result.output
    return result


def fails(code: int, *words: object) -> str:
    """What a command says on stderr that ends with an exit code."""
    result = run(*words)
    assert result.exit_code == code, result.output
    return result.stderr
