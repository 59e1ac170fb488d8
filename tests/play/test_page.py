"""The page as text: one script, data and graphs inside, nothing from elsewhere; and its server."""

import base64
import gzip
import json
import re
import threading
import urllib.request
from pathlib import Path

import pytest

from darkroom.play.bundle import bundle
from darkroom.play.page import Content, write_page
from darkroom.play.runtime import Runtime
from darkroom.play.serve import open_server


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """Page with small files instead of onnxruntime-web and a graph."""
    for name in ("ort.mjs", "ort.wasm", "model.onnx"):
        (tmp_path / name).write_text(f"content of {name}")
    content = Content(
        title="UNet on <Shapes>",
        above="unet/0",
        facts=[("Step", 3)],
        data={"kind": "segmentation", "classes": ["</script>", "<!--<script>", "Straße"]},
        graphs={"model": tmp_path / "model.onnx"},
    )
    path = tmp_path / "play" / "index.html"
    write_page(path, content, Runtime(tmp_path / "ort.mjs", tmp_path / "ort.wasm"))
    return path


def test_script_has_every_module_after_its_imports() -> None:
    script = bundle("main")
    assert not re.search(r"^(import|export)\b", script, re.MULTILINE)
    assert script.count("class Engine ") == script.count("class Picker ") == 1
    assert script.index("class Stage ") < script.index("class Picker ") < script.index("function openPage")


def test_data_and_graphs_are_inside(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    graph = re.search(r'<script type="application/gzip" id="graph-model">(.*?)</script>', text)
    assert data is not None
    assert json.loads(data[1])["classes"] == ["</script>", "<!--<script>", "Straße"]
    assert "<" not in data[1]  # <!--<script> would hide the end of the element
    assert graph is not None
    assert gzip.decompress(base64.b64decode(graph[1])) == b"content of model.onnx"
    assert "UNet on &lt;Shapes&gt;" in text


def test_page_names_nothing_elsewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert re.findall(r"(?:src|href)=|https?:|@import|url\(", text) == []
    assert "default-src &#x27;none&#x27;" in text


def test_page_of_equal_content_is_equal(page: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.html"
    content = Content("t", "a", [], {"kind": "segmentation"}, {"model": tmp_path / "model.onnx"})
    runtime = Runtime(tmp_path / "ort.mjs", tmp_path / "ort.wasm")
    write_page(again, content, runtime)
    first = again.read_bytes()
    write_page(again, content, runtime)
    assert again.read_bytes() == first


def test_server_is_on_this_machine_alone(page: Path) -> None:
    with open_server(page.parent, 0) as server:
        host, port = server.server_address[:2]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{port}/") as answer:
            assert answer.read() == page.read_bytes()
        server.shutdown()
        thread.join()
    assert host == "127.0.0.1"
