"""cluster.yaml, the Kubernetes manifests and the image: valid by their own schemas, and true to this package."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from places import ROOT, SHARED
from ray.autoscaler._private.util import prepare_config, validate_config

KUBERAY = SHARED / "data" / "kuberay"
KINDS = {"RayCluster": "rayclusters.v1.schema.json", "RayJob": "rayjobs.v1.schema.json"}
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
INSTALLED = {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", "mmcore", "rayjobs", "search_spaces"}


def cluster() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    return loaded


def check(config: dict[str, Any]) -> None:
    """As `ray up` does it: defaults filled in, then Ray's own schema."""
    validate_config(prepare_config(copy.deepcopy(config)))


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def constrained_ray() -> str:
    (version,) = re.findall(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    return version


def test_cluster_yaml_is_valid() -> None:
    check(cluster())


@pytest.mark.parametrize("where", [(), ("available_node_types", "gpu_worker"), ("docker",)])
def test_an_unknown_key_in_cluster_yaml_is_refused(where: tuple[str, ...]) -> None:
    config = section = cluster()
    for key in where:
        section = section[key]
    section["max_wrokers"] = 3
    with pytest.raises(jsonschema.ValidationError, match="max_wrokers"):
        check(config)


def test_what_the_comments_say_of_gcp_and_own_machines_is_valid_too() -> None:
    text = (ROOT / "cluster.yaml").read_text()
    gcp, own = [
        yaml.safe_load(found)["provider"] for found in re.findall(r"^#   (provider: \{.*\})$", text, re.MULTILINE)
    ]
    assert (gcp["type"], own["type"]) == ("gcp", "local")
    check(cluster() | {"provider": gcp})
    alone = {key: value for key, value in cluster().items()
             if key not in {"available_node_types", "head_node_type", "max_workers"}}  # fmt: skip
    check(alone | {"provider": own})


def test_workers_scale_from_zero_beside_a_head_without_gpus() -> None:
    config = cluster()
    types = dict(config["available_node_types"])
    head = types.pop(config["head_node_type"])
    assert head["resources"] == {"CPU": 0}
    assert types
    for worker in types.values():
        assert worker["min_workers"] == 0
        assert worker["resources"]["GPU"] >= 1
        assert worker["max_workers"] <= config["max_workers"]
        assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}


def test_the_nodes_install_this_package_from_what_they_are_sent() -> None:
    config = cluster()
    mounts = {target: source for target, source in config["file_mounts"].items() if "auth_token" not in target}
    assert {target.removeprefix("~/equipoise/") for target in mounts} == set(mounts.values()) == INSTALLED
    assert all((ROOT / source).exists() for source in mounts.values())
    assert any("pip install" in line and line.endswith("~/equipoise") for line in config["setup_commands"])


def test_the_constrained_ray_and_python_are_named_everywhere() -> None:
    config, wanted = cluster(), SpecifierSet(pyproject()["requires-python"])
    for image in (config["docker"]["head_image"], config["docker"]["worker_image"]):
        ray_version, major, minor = re.fullmatch(r"rayproject/ray:([\d.]+)-py(\d)(\d+)-\w+", image).groups()  # type: ignore[union-attr]
        assert ray_version == constrained_ray()
        assert Version(f"{major}.{minor}") in wanted
    (base,) = re.findall(r"^FROM python:([\d.]+)", DOCKERFILE, re.MULTILINE)
    assert Version(base) in wanted
    for document in manifests():
        assert cluster_spec(document)["rayVersion"] == constrained_ray()


def test_nobody_reaches_the_cluster_without_its_token_and_the_dashboard_stays_on_loopback() -> None:
    config = cluster()
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    (start,) = [line for line in config["head_start_ray_commands"] if "--head" in line]
    assert "--dashboard-host=127.0.0.1" in start
    for document in manifests():
        assert cluster_spec(document)["authOptions"]["mode"] == "token"


def test_a_search_cannot_start_on_a_disk_that_goes_with_its_machine() -> None:
    lines = cluster()["initialization_commands"]
    mounts = [number for number, line in enumerate(lines) if "mount -t nfs4" in line]
    checks = [number for number, line in enumerate(lines) if line == "mountpoint -q /shared"]
    assert mounts < checks
    assert "--volume /shared:/shared" in cluster()["docker"]["run_options"]


def manifests() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((ROOT / "deploy" / "kuberay.yaml").read_text()))


def cluster_spec(document: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = document["spec"]
    return spec["rayClusterSpec"] if document["kind"] == "RayJob" else spec


def strict(schema: Any) -> Any:
    """The schema with unknown keys refused: a cluster would drop them without a word."""
    if isinstance(schema, list):
        return [strict(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and "type" in schema:
        closed.setdefault("additionalProperties", False)
    return closed


def problems(document: dict[str, Any]) -> list[str]:
    if not KUBERAY.is_dir():
        pytest.skip(f"the schemas of KubeRay are not in {KUBERAY}")
    schema = strict(json.loads((KUBERAY / KINDS[document["kind"]]).read_text()))
    return [error.message for error in jsonschema.Draft7Validator(schema).iter_errors(document)]


def test_the_kubernetes_manifests_are_valid() -> None:
    assert [document["kind"] for document in manifests()] == list(KINDS)
    for document in manifests():
        assert problems(document) == []


@pytest.mark.parametrize("number", [0, 1])
def test_misspelt_and_mistyped_keys_of_the_manifests_are_found(number: int) -> None:
    document = manifests()[number]
    spec = cluster_spec(document)
    (group,) = spec["workerGroupSpecs"]
    group["maxReplica"] = group.pop("maxReplicas")
    group["template"]["spec"]["containers"][0]["imagee"] = "x"
    spec["enableInTreeAutoscaling"] = "yes"
    found = " ".join(problems(document))
    for word in ("'maxReplica' was", "'maxReplicas' is a required", "'imagee'", "'yes' is not of type 'boolean'"):
        assert word in found


def test_the_job_brings_the_cluster_that_stands_beside_it() -> None:
    alone, with_job = manifests()
    assert cluster_spec(with_job) == alone["spec"]
    head, (group,) = alone["spec"]["headGroupSpec"], alone["spec"]["workerGroupSpecs"]
    assert "nvidia.com/gpu" not in str(head)
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert (group["replicas"], group["minReplicas"]) == (0, 0)
    assert group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_the_entry_point_of_the_job_starts_a_search_and_goes_on_with_it(tmp_path: Path) -> None:
    entry = manifests()[1]["spec"]["entrypoint"].replace("/shared", str(tmp_path)).replace("python -m", "echo")
    first = subprocess.run(["sh", "-c", entry], capture_output=True, text=True, check=True).stdout
    assert first.startswith("rayjobs.tune --name nightly --dataset digits --address auto")
    (tmp_path / "results" / "nightly").mkdir(parents=True)
    (tmp_path / "results" / "nightly" / "experiment.json").write_text("{}")
    again = subprocess.run(["sh", "-c", entry], capture_output=True, text=True, check=True).stdout
    assert again.startswith("rayjobs.tune --resume nightly --address auto")
    assert again.strip().endswith(f"--output {tmp_path}/results")
    assert "--gpus-per-worker 1 --concurrent" in again  # what machines are to be brought


def test_the_image_is_made_of_what_the_package_is() -> None:
    copied = {word for line in re.findall(r"^COPY (.*) \S+$", DOCKERFILE, re.MULTILINE) for word in line.split()}
    ignored = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text()
    assert copied == INSTALLED == set(re.findall(r"^!(\S+)$", ignored, re.MULTILINE))
    assert "--constraint constraints.txt ." in DOCKERFILE


def test_the_image_installs_dependencies_before_the_code_is_there(tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    program = re.search(r'python -c "(.*?)" \\\n', DOCKERFILE, re.DOTALL).group(1)  # type: ignore[union-attr]
    subprocess.run([sys.executable, "-c", program.replace("\\\n", "")], cwd=tmp_path, check=True)
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = [tmp_path / name.replace(".", "/") for name in packages] + [tmp_path / "search_spaces"]
    assert [folder for folder in folders if not folder.is_dir()] == []


def test_the_dockerfile_passes_its_linter() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed (pip has no build for this machine)")
    done = subprocess.run([hadolint, "-"], input=DOCKERFILE, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    bad = subprocess.run([hadolint, "-"], input=DOCKERFILE.replace("python:3.11-slim-bookworm", "python:latest"),
                         capture_output=True, text=True)  # fmt: skip
    assert "DL3007" in bad.stdout
