#!/usr/bin/env python3
"""Runs the lines of stdin as shell commands on friends' computers, all at the same time, and prints what each says, in order.

    printf '%s\n' hostname 'echo $((6 * 7))' | examples/bridge.py --cluster alice/friends

The options are those of `p2p bridge`; docs/bridge.md has the lines that are spoken here.
"""
import json
import os
import subprocess
import sys


class Bridge:
    def __init__(self, options):
        program = os.environ.get("P2P_EXECUTABLE", "p2p")
        self.process = subprocess.Popen(
            [program, "bridge", *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, **line):
        print(json.dumps(line), file=self.process.stdin, flush=True)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def main():
    commands = [line.rstrip("\n") for line in sys.stdin]
    bridge = Bridge(sys.argv[1:])
    said = {task: "" for task in range(len(commands))}
    failed = False
    for task, command in enumerate(commands):
        bridge.ask(do="submit", task=task, words=["sh", "-c", command])
    unfinished = len(commands)
    for answer in map(json.loads, bridge.process.stdout) if commands else ():
        match answer["is"]:
            case "stdout":
                said[answer["task"]] += answer["text"]
            case "again":
                said[answer["task"]] = ""
            case "waiting" if answer["why"]:
                print("waiting:", answer["why"], file=sys.stderr)
            case "ended" | "refused":
                unfinished -= 1
                if (answer.get("how"), answer.get("code")) != ("exit", 0):
                    failed = True
                    why = answer.get("message") or f"{answer['how']} {answer.get('code', '')}"
                    print(f"{commands[answer['task']]}: {why}", file=sys.stderr)
                if unfinished == 0:
                    break
            case "fatal":
                sys.exit(answer["message"])
    bridge.close()
    print(*said.values(), sep="", end="")
    return failed


sys.exit(main())
