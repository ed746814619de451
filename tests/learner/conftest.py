import pytest


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    from benchmarks.pretraining import build_model, build_tokenizer

    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = build_tokenizer()
    build_model(len(tokenizer), seed=3, width=128, layers=4).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
