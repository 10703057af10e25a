"""cluster.yaml and jobs/rayjob.yaml are what Ray and KubeRay take, and are safe as they are; all without a network."""

import copy
import re
import shlex

import jsonschema
import pytest
import yaml

from parity.cluster.ray_job import check_out
from parity.plan.options import make_parser

from conftest import ROOT

CLUSTER = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
RAYJOB, CLAIM = (
    yaml.safe_load((ROOT / "jobs" / name).read_text(encoding="utf-8")) for name in ("rayjob.yaml", "claim.yaml")
)


def start_options(command):
    """The options of the `ray start` in a shell command, parsed by Ray's own parser."""
    from ray.scripts.scripts import start

    words = shlex.split(command.split("ray start", 1)[1])
    return start.make_context("ray start", words, resilient_parsing=False).params


def check_start(options, *, head):
    assert options["disable_usage_stats"], "usage statistics are off"
    if head:
        assert options["dashboard_host"] in ("127.0.0.1", "localhost"), "the dashboard listens on loopback"


def check_image(image):
    """What jobs/Dockerfile makes, of a name that nobody takes for one that can be pulled."""
    assert image.startswith("YOUR-REGISTRY/parity:"), f"{image} is plainly to be changed"
    tag = image.rpartition("/")[2].partition(":")[2]
    assert re.fullmatch(r"\d+\.\d+\.\d+-py3\d+(-cpu|-gpu)?", tag), f"{image} is pinned"


def check_cluster(config):
    """What Ray's launcher checks, and what it does not."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(copy.deepcopy(config)))
    check_image(config["docker"]["image"])
    assert config["provider"]["cache_stopped_nodes"] is False
    assert any(local.endswith("auth_token") for local in config["file_mounts"].values()), "the token is sent"
    assert not any(there.startswith("~/.ray/") for there in config["file_mounts"]), "Docker would make ~/.ray as root"
    (mounted,) = (there for there, here in config["file_mounts"].items() if here.endswith("auth_token"))
    assert any(
        "mkdir -p -m 700 ~/.ray" in command and f"install -m 600 {mounted} ~/.ray/auth_token" in command
        for command in config["setup_commands"]
    ), "the token is where Ray looks for it, and nobody else can read it"
    assert any("export RAY_AUTH_MODE=token" in command and ".bashrc" in command for command in config["setup_commands"])
    types = config["available_node_types"]
    head = types[config["head_node_type"]]
    assert head["resources"] == {"CPU": 0}, "no trial trains beside the head"
    workers = {name: each for name, each in types.items() if each is not head}
    assert {bool(each["resources"].get("GPU")) for each in workers.values()} == {True, False}
    for name, each in workers.items():
        assert each["min_workers"] == 0 and each["max_workers"] > 0, name
        assert "InstanceMarketOptions" not in each["node_config"], f"{name} is on demand"
    assert sum(each["max_workers"] for each in workers.values()) <= config["max_workers"]
    assert all(each["labels"] for each in types.values())
    for name, each in types.items():
        machine = each["node_config"]
        assert machine.get("SecurityGroupIds"), f"{name}: Ray's own security group opens SSH to the world"
        assert "/latest/" in machine.get("ImageId", ""), f"{name} has a current image"
        assert sum(disk["Ebs"]["VolumeSize"] for disk in machine.get("BlockDeviceMappings", [])) >= 150, name
    for name, is_head in (("head_start_ray_commands", True), ("worker_start_ray_commands", False)):
        (command,) = (each for each in config[name] if "ray start" in each)
        assert "RAY_AUTH_MODE=token" in command and "RAY_USAGE_STATS_ENABLED=0" in command
        options = start_options(command)
        assert options["head"] is is_head
        check_start(options, head=is_head)


def exact(properties, *, optional=()):
    """A JSON schema of an object with these fields and no others."""
    return {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "required": [name for name in properties if name not in optional],
    }


TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
COUNT = {"type": "integer", "minimum": 0}
POD = exact(
    {
        "metadata": exact({"labels": TEXTS}),
        "spec": exact(
            {
                "containers": {
                    "type": "array",
                    "minItems": 1,
                    "items": exact(
                        {
                            "name": {"type": "string"},
                            "image": {"type": "string"},
                            "env": {
                                "type": "array",
                                "items": exact({"name": {"type": "string"}, "value": {"type": "string"}}),
                            },
                            "resources": exact({"requests": TEXTS, "limits": TEXTS}),
                            "volumeMounts": {
                                "type": "array",
                                "items": exact({"name": {"type": "string"}, "mountPath": {"type": "string"}}),
                            },
                        },
                        optional=["volumeMounts"],
                    ),
                },
                "securityContext": exact({"fsGroup": COUNT}),
                "tolerations": {
                    "type": "array",
                    "items": exact(
                        {
                            "key": {"type": "string"},
                            "operator": {"enum": ["Exists", "Equal"]},
                            "effect": {"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
                        }
                    ),
                },
                "volumes": {
                    "type": "array",
                    "items": exact(
                        {
                            "name": {"type": "string"},
                            "persistentVolumeClaim": exact({"claimName": {"type": "string"}}),
                        }
                    ),
                },
            },
            optional=["volumes", "securityContext", "tolerations"],
        ),
    }
)
# The fields in use of KubeRay's ray.io/v1: ray-operator/apis/ray/v1/rayjob_types.go and raycluster_types.go.
RAYJOB_SCHEMA = exact(
    {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayJob"},
        "metadata": exact({"name": {"type": "string"}, "labels": TEXTS}),
        "spec": exact(
            {
                "entrypoint": {"type": "string"},
                "runtimeEnvYAML": {"type": "string"},
                "shutdownAfterJobFinishes": {"type": "boolean"},
                "ttlSecondsAfterFinished": COUNT,
                "activeDeadlineSeconds": {"type": "integer", "minimum": 1},
                "backoffLimit": COUNT,
                "rayClusterSpec": exact(
                    {
                        "rayVersion": {"type": "string"},
                        "authOptions": exact({"mode": {"enum": ["disabled", "token"]}}),
                        "enableInTreeAutoscaling": {"type": "boolean"},
                        "autoscalerOptions": exact({"version": {"enum": ["v1", "v2"]}, "idleTimeoutSeconds": COUNT}),
                        "headGroupSpec": exact(
                            {
                                "serviceType": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
                                "rayStartParams": TEXTS,
                                "template": POD,
                            }
                        ),
                        "workerGroupSpecs": {
                            "type": "array",
                            "items": exact(
                                {
                                    "groupName": {"type": "string"},
                                    "replicas": COUNT,
                                    "minReplicas": COUNT,
                                    "maxReplicas": COUNT,
                                    "rayStartParams": TEXTS,
                                    "template": POD,
                                }
                            ),
                        },
                    }
                ),
            }
        ),
    }
)


def group_start_options(group, *, head):
    """What KubeRay makes of rayStartParams: of "true" a flag, of others --name=value."""
    words = [f"--{name}" if value == "true" else f"--{name}={value}" for name, value in group["rayStartParams"].items()]
    return start_options(shlex.join(["ray", "start", *(["--head"] if head else ["--address=HEAD:6379"]), *words]))


def check_rayjob(manifest):
    """The fields that KubeRay knows, what Ray and parity make of their contents, and our own defaults."""
    from ray.runtime_env import RuntimeEnv

    jsonschema.validate(manifest, RAYJOB_SCHEMA)
    spec = manifest["spec"]
    program, flag, module, *arguments = shlex.split(spec["entrypoint"])
    assert (program, flag, module) == ("python", "-m", "parity.run")
    options = make_parser().parse_args(arguments)
    check_out(options.out)
    assert not options.inline and not options.address
    RuntimeEnv(**yaml.safe_load(spec["runtimeEnvYAML"]))
    assert spec["shutdownAfterJobFinishes"] and spec["backoffLimit"] == 0
    cluster = spec["rayClusterSpec"]
    assert cluster["authOptions"]["mode"] == "token"
    head = cluster["headGroupSpec"]
    assert head["serviceType"] == "ClusterIP", "the head is not reached from outside"
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert head["rayStartParams"].get("dashboard-host") != "0.0.0.0"
    mounts = [mount["mountPath"] for mount in head["template"]["spec"]["containers"][0]["volumeMounts"]]
    assert any(options.out.startswith(f"{mount}/") for mount in mounts), "--out is on a volume"
    pod = head["template"]["spec"]
    assert pod.get("securityContext", {}).get("fsGroup"), "the image's user can write to a fresh volume"
    claims = {volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"]}
    assert claims == {CLAIM["metadata"]["name"]}, "jobs/claim.yaml makes the volume"
    assert cluster["enableInTreeAutoscaling"] and cluster["autoscalerOptions"]["version"] == "v2"
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] == 0 < group["maxReplicas"]
        tolerated = {each["key"] for each in group["template"]["spec"].get("tolerations", [])}
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert {name for name in limits if "/" in name} == tolerated, "it goes where the GPUs are"
    for group in (head, *cluster["workerGroupSpecs"]):
        check_start(group_start_options(group, head=group is head), head=False)
        (container,) = group["template"]["spec"]["containers"]
        check_image(container["image"])
        assert f":{cluster['rayVersion']}-" in container["image"]
        assert {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"} in container["env"]
    assert {
        "nvidia.com/gpu" in group["template"]["spec"]["containers"][0]["resources"]["limits"]
        for group in cluster["workerGroupSpecs"]
    } == {True, False}


def test_the_cluster_file_is_valid_and_safe():
    check_cluster(CLUSTER)


def test_the_rayjob_is_valid_and_safe():
    check_rayjob(RAYJOB)


def test_the_claim_is_one_that_any_cluster_can_meet():
    quantity = exact({"storage": {"type": "string", "pattern": r"^\d+[MGT]i$"}})
    spec = exact({"accessModes": {"const": ["ReadWriteOnce"]}, "resources": exact({"requests": quantity})})
    jsonschema.validate(
        CLAIM,
        exact(
            {
                "apiVersion": {"const": "v1"},
                "kind": {"const": "PersistentVolumeClaim"},
                "metadata": exact({"name": {"type": "string"}}),
                "spec": spec,
            }
        ),
    )


def test_the_images_are_what_the_dockerfile_makes():
    lines = (ROOT / "jobs" / "Dockerfile").read_text(encoding="utf-8").splitlines()
    (base,) = (line.split()[1] for line in lines if line.startswith("FROM "))
    ray = base.rpartition(":")[2].removesuffix("${FLAVOUR}")
    built = {
        words[words.index("-t") + 1]
        for line in lines
        if "docker build" in (text := line.lstrip("# "))
        for words in [text.split()]
    }
    assert built == {f"YOUR-REGISTRY/parity:{ray}{flavour}" for flavour in ("cpu", "gpu")}
    groups = [RAYJOB["spec"]["rayClusterSpec"]["headGroupSpec"], *RAYJOB["spec"]["rayClusterSpec"]["workerGroupSpecs"]]
    used = {group["template"]["spec"]["containers"][0]["image"] for group in groups}
    assert {*used, CLUSTER["docker"]["image"]} == built


def test_both_files_are_of_the_ray_that_is_tested():
    import ray

    assert RAYJOB["spec"]["rayClusterSpec"]["rayVersion"] == "2.60.0"
    assert f":{RAYJOB['spec']['rayClusterSpec']['rayVersion']}-" in CLUSTER["docker"]["image"]
    assert tuple(map(int, ray.__version__.split(".")[:2])) >= (2, 59)


def planted(parsed, path, value):
    """A copy with one value changed."""
    changed = copy.deepcopy(parsed)
    *ways, last = path
    place = changed
    for way in ways:
        place = place[way]
    place[last] = value
    return changed


BAD_START = "ray start --head --dashboard-host=127.0.0.1 --disable-usage-stats"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["clustername"], "x", "Additional properties"),
        (["available_node_types", "cpu", "resources", "CPU"], "8", "not of type 'integer'"),
        (["head_node_type"], "nobody", "head_node_type"),
        (["max_workers"], -1, "-1"),
        (["max_workers"], 1, "assert"),
        (["available_node_types", "head", "resources"], {"CPU": 2}, "no trial trains beside the head"),
        (["available_node_types", "gpu", "min_workers"], 1, "gpu"),
        (["available_node_types", "cpu", "node_config", "InstanceMarketOptions"], {"MarketType": "spot"}, "on demand"),
        (["docker", "image"], "YOUR-REGISTRY/parity:latest", "is pinned"),
        (["docker", "image"], "rayproject/ray:2.60.0-py311-gpu", "is plainly to be changed"),
        (["file_mounts"], {}, "the token is sent"),
        (["file_mounts"], {"~/.ray/auth_token": "~/.ray/auth_token"}, "Docker would make ~/.ray as root"),
        (["setup_commands"], ["chmod 600 ~/parity/auth_token"], "the token is where Ray looks for it"),
        (["setup_commands", 1], "true", "assert"),
        (["available_node_types", "gpu", "node_config"], {"InstanceType": "g6.2xlarge"}, "opens SSH to the world"),
        (["available_node_types", "gpu", "node_config", "ImageId"], "latest_dlami", "has a current image"),
        (["available_node_types", "head", "node_config", "BlockDeviceMappings"], [], "head"),
        (["provider", "cache_stopped_nodes"], True, "assert"),
        (["head_start_ray_commands", 1], BAD_START, "RAY_AUTH_MODE"),
        (
            ["head_start_ray_commands", 1],
            f"RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 {BAD_START.replace('127.0.0.1', '0.0.0.0')}",
            "listens on loopback",
        ),
        (
            ["worker_start_ray_commands", 1],
            "RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 ray start --address=x --no-such-option",
            "No such option",
        ),
        (
            ["worker_start_ray_commands", 1],
            "RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 ray start --address=x",
            "usage statistics are off",
        ),
    ],
)
def test_a_mistake_in_the_cluster_file_is_found(path, value, message):
    with pytest.raises(Exception) as found:
        check_cluster(planted(CLUSTER, path, value))
    assert (
        message.lower() in f"{type(found.value).__name__}: {found.value} {getattr(found.value, 'message', '')}".lower()
    )


HEAD = ["spec", "rayClusterSpec", "headGroupSpec"]
GPU = ["spec", "rayClusterSpec", "workerGroupSpecs", 1]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["spec", "entryPoint"], "x", "Additional properties"),
        (["spec", "backofflimit"], 0, "Additional properties"),
        (["spec", "activeDeadlineSeconds"], "7200", "not of type 'integer'"),
        ([*GPU, "rayStartParams", "num-gpus"], 1, "not of type 'string'"),
        ([*GPU, "rayStartParams", "num-gpu"], "1", "No such option"),
        ([*GPU, "minReplicas"], 1, "assert"),
        ([*GPU, "rayStartParams"], {}, "usage statistics are off"),
        ([*GPU, "template", "spec", "containers", 0, "env"], [], "RAY_USAGE_STATS_ENABLED"),
        ([*GPU, "template", "spec", "containers", 0, "image"], "YOUR-REGISTRY/parity:latest", "is pinned"),
        ([*GPU, "template", "spec", "tolerations"], [], "it goes where the GPUs are"),
        ([*HEAD, "template", "spec", "securityContext"], {"fsgroup": 1000}, "Additional properties"),
        ([*HEAD, "template", "spec", "securityContext", "fsGroup"], 0, "can write to a fresh volume"),
        ([*HEAD, "template", "spec", "volumes", 0, "persistentVolumeClaim", "claimName"], "other", "makes the volume"),
        (["spec", "rayClusterSpec", "autoscalerOptions", "version"], "v1", "assert"),
        ([*HEAD, "rayStartParams", "num-cpus"], "2", "assert"),
        ([*HEAD, "rayStartParams", "dashboard-host"], "0.0.0.0", "0.0.0.0"),
        ([*HEAD, "serviceType"], "LoadBalancer", "not reached from outside"),
        (["spec", "rayClusterSpec", "authOptions", "mode"], "disabled", "disabled"),
        (["spec", "runtimeEnvYAML"], "working_dir: [1]", "working_dir"),
        (["spec", "entrypoint"], "python -m parity.run --stepz 3 --out /runs/x", "Unknown option --stepz"),
        (["spec", "entrypoint"], "python -m parity.run --out runs/x", "--out runs/x is relative"),
        (["spec", "entrypoint"], "python -m parity.run --out /tmp/x", "is on a volume"),
    ],
)
def test_a_mistake_in_the_rayjob_is_found(path, value, message):
    with pytest.raises((Exception, SystemExit)) as found:
        check_rayjob(planted(RAYJOB, path, value))
    assert (
        message.lower() in f"{type(found.value).__name__}: {found.value} {getattr(found.value, 'message', '')}".lower()
    )
