"""`make demo-server`: serves the demo's library, asks the server, uploads a video, reads the metrics, and stops it.

python -m serve.demo.server [DATA]        DATA is the folder of `make demo`, by default ./demo-data
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from serve.client.client import Client
from serve.config import ClientConfig
from serve.errors import ServerFailed

VIDEO = Path(__file__).resolve().parent / "videos" / "the_admiral.mp4"
PRINTED_METRICS = re.compile(
    r"^kinodex_(calls_total|call_seconds_sum|videos|index_rows|freshness_seconds_count|ready)\b.*$", re.M
)
WARM_SECONDS = 120.0  # longest wait for the server to load its models; a busy machine needs a minute


def main() -> int:
    """Run the demo; return the exit status."""
    directory = sys.argv[1] if len(sys.argv) > 1 else "demo-data"
    command = [sys.executable, "-m", "kinodex", "serve", "--data", directory, "--listen", "127.0.0.1:0"]
    settings = os.environ | {"KINODEX_SERVER_METRICS_LISTEN": "127.0.0.1:0"}
    print_command(f"kinodex serve --data {directory} --listen 127.0.0.1:0")
    log = Path(directory) / "server.log"
    with log.open("w") as stderr, subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=stderr, env=settings, text=True
    ) as server:  # fmt: skip
        assert server.stdout is not None
        line = server.stdout.readline().strip()
        if not line:
            print(log.read_text(), file=sys.stderr)
            return 1
        console = server.stdout.readline().strip()
        print(line, console, sep="\n")
        try:
            use_server(line.split()[-1])
            ask_over_http(console.split()[-1])
            metrics = re.search(r"address=(http://\S+)", log.read_text())
            if metrics is not None:
                print_command(f"curl {metrics[1]}")
                with urllib.request.urlopen(metrics[1]) as answer:
                    print(*(match[0] for match in PRINTED_METRICS.finditer(answer.read().decode())), sep="\n")
        finally:
            server.send_signal(signal.SIGTERM)
    print_command("kill -TERM; the last lines of its log:")
    print(*log.read_text().splitlines()[-3:], sep="\n")
    return server.returncode


def use_server(address: str) -> None:
    """Ask a question, upload a video, wait until it is indexed, and delete it."""
    print_command(f'kinodex moments "when is a moth mentioned?" --limit 1 --server {address}')
    with Client(address, ClientConfig()) as client:
        wait_warm(client)
        subprocess.run(
            [sys.executable, "-m", "kinodex", "moments", "when is a moth mentioned?", "--limit", "1",
             "--server", address],
            check=True,
        )  # fmt: skip
        print_command("Client.upload, then Client.wait")
        video = client.upload(VIDEO, collection="uploads")
        print(video.video_id, video.state)
        video = client.wait(video.video_id, "uploads")
        print(video.video_id, video.state, f"{video.frame_count} frames, {video.utterance_count} utterances")
        client.delete(video.video_id, "uploads")


def ask_over_http(url: str) -> None:
    """Ask a question as JSON, and load the first page of the console."""
    question = b'{"query": {"text": "when is a moth mentioned?"}, "pageSize": 1}'
    path = "/kinodex.v1.SearchService/SearchMoments"
    print_command(f"curl -H 'Content-Type: application/json' -d '{question.decode()}' {url}{path}")
    request = urllib.request.Request(url + path, question, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        moment = json.load(answer)["moments"][0]
    print(json.dumps({key: moment[key] for key in ("uri", "span", "verdict", "transcript")}, indent=2))
    print_command(f"curl {url} | grep '<title>'")
    with urllib.request.urlopen(url) as page:
        print(*re.findall("<title>.*</title>", page.read().decode()))


def wait_warm(client: Client) -> None:
    """Wait until the server answers.

    Raises:
        ServerFailed: If it does not within WARM_SECONDS.
    """
    end = time.monotonic() + WARM_SECONDS
    while True:
        try:
            list(client.videos())
            return
        except ServerFailed as error:
            if error.code != "UNAVAILABLE" or time.monotonic() > end:
                raise


def print_command(line: str) -> None:
    print(f"\n$ {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
