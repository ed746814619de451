"""Programs that want out, or want to be in the way, and what becomes of each in Monty and in CPython.

A row's text is the body of f(a), or the whole program where it has "def f" in it. {canary} is a file of the host,
{port} a port on which the host listens, and SECRET a variable of its environment.
"""

from __future__ import annotations

from textwrap import indent

from azero.sandbox import Failure

SYNTAX, UNSUPPORTED, ERROR, TIME = Failure.SYNTAX, Failure.UNSUPPORTED, Failure.ERROR, Failure.TIME
MEMORY, RECURSION, PERMISSION = Failure.MEMORY, Failure.RECURSION, Failure.PERMISSION
NOT_LITERAL, CRASH = Failure.NOT_LITERAL, Failure.CRASH
VALUE = None  # it returns a value, which is its own business
OVER = (TIME, MEMORY)  # whichever limit it meets first on this machine

Expected = Failure | None | tuple[Failure, ...]

# name: (program, in Monty, in CPython)
HOSTILE: dict[str, tuple[str, Expected, Expected]] = {
    # files
    "read a file": ("return open('{canary}').read()", PERMISSION, PERMISSION),
    "overwrite a file": ("open('{canary}', 'w').write('gone')", PERMISSION, PERMISSION),
    "read a file with pathlib": (
        "from pathlib import Path\nreturn Path('{canary}').read_text()", PERMISSION, PERMISSION),
    "delete a file": ("import os\nos.remove('{canary}')", PERMISSION, PERMISSION),
    "list the root": ("import os\nreturn sorted(os.listdir('/'))", PERMISSION, VALUE),
    "remove a folder tree": ("import shutil\nshutil.rmtree('/')", UNSUPPORTED, PERMISSION),
    "write into the library": ("import os\nopen(os.__file__, 'w')", UNSUPPORTED, PERMISSION),
    "write to the root": ("open('/new', 'w').write('x')", PERMISSION, PERMISSION),
    "read the processes": ("return open('/proc/self/environ').read()", PERMISSION, PERMISSION),
    "read a device": ("return open('/dev/zero', 'rb').read(10)", PERMISSION, PERMISSION),
    "map a file": ("import mmap, os\nreturn mmap.mmap(os.open('{canary}', 0), 0)[:5]", UNSUPPORTED, PERMISSION),
    "use an open descriptor": ("import os\nreturn [os.read(n, 10) for n in range(3)]", UNSUPPORTED, PERMISSION),
    "write to every descriptor": (
        "import os\nfor n in range(64):\n    os.write(n, b'x' * 100000)", UNSUPPORTED, PERMISSION),
    "ask for files without end": (
        "while True:\n    try: open('{canary}')\n    except Exception: pass", PERMISSION, TIME),
    # processes, environment, network
    "run a shell": ("import os\nreturn os.system('touch {canary}.new')", UNSUPPORTED, VALUE),
    "run a process": (
        "import subprocess\nreturn subprocess.run(['id'], capture_output=True).stdout", UNSUPPORTED, PERMISSION),
    "fork": ("import os\nreturn os.fork()", UNSUPPORTED, PERMISSION),
    "fork without end": ("import os\nwhile True:\n    os.fork()", UNSUPPORTED, PERMISSION),
    "start threads": (
        "import threading\nfor i in range(1000):\n    threading.Thread(target=lambda: f(a)).start()",
        UNSUPPORTED, ERROR),
    "replace the process": ("import os\nos.execv('/bin/sh', ['sh'])", UNSUPPORTED, PERMISSION),
    "kill the parent": ("import os, signal\nos.kill(os.getppid(), signal.SIGKILL)", UNSUPPORTED, PERMISSION),
    "kill everyone": ("import os\nos.kill(-1, 9)", UNSUPPORTED, PERMISSION),
    "read the environment": ("import os\nreturn os.environ['SECRET']", PERMISSION, ERROR),
    "connect to the host": (
        "import socket\nreturn socket.create_connection(('127.0.0.1', {port}), 1).recv(1)", UNSUPPORTED, PERMISSION),
    "send a datagram": (
        "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.sendto(b'x', ('8.8.8.8', 53))",
        UNSUPPORTED, PERMISSION),
    "fetch a page": (
        "from urllib.request import urlopen\nreturn urlopen('http://127.0.0.1:{port}/', timeout=1).read()",
        UNSUPPORTED, ERROR),
    "load a library": ("import ctypes\nreturn ctypes.CDLL('libc.so.6').system(b'id')", UNSUPPORTED, VALUE),
    "read memory through ctypes": ("import ctypes\nreturn ctypes.string_at(0)", UNSUPPORTED, CRASH),
    "share memory": (
        "from multiprocessing import shared_memory\nreturn shared_memory.SharedMemory('x', True, 10).size",
        UNSUPPORTED, ERROR),
    # signals, clocks
    "ignore the alarm": (
        "import signal\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n    except Exception: pass\n"
        "while True: pass", UNSUPPORTED, TIME),
    "stop the clock": (
        "import signal\nsignal.setitimer(signal.ITIMER_PROF, 0)\nwhile True: pass", UNSUPPORTED, PERMISSION),
    "stop itself": ("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)", UNSUPPORTED, PERMISSION),
    "raise limits": (
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))\nreturn 'x' * 10**9", UNSUPPORTED, ERROR),
    "sleep": ("import time\ntime.sleep(1000)", VALUE, PERMISSION),
    "sleep, and hide it": ("exec('imp' + 'ort time; time.sleep(1000)')", TIME, PERMISSION),
    "wait for a lock": ("import threading\nk = threading.Lock()\nk.acquire()\nk.acquire()", UNSUPPORTED, TIME),
    "wait for input": ("return input()", UNSUPPORTED, ERROR),
    # time
    "loop": ("while True: pass", TIME, TIME),
    "loop when it is defined": ("while True: pass\ndef f(a): return a", TIME, TIME),
    "swallow the end of the time": (
        "while True:\n    try:\n        while True: pass\n    except: pass", TIME, TIME),
    "swallow it in finally": (
        "while True:\n    try:\n        while True: pass\n    finally: continue", TIME, TIME),
    "loop in an exception's text": (
        "class E(Exception):\n    def __str__(self):\n        while True: pass\nraise E()", UNSUPPORTED, TIME),
    "bomb at the limit": (
        "import time\nt, n = time.perf_counter(), 0\nwhile time.perf_counter() - t < 0.09 and n < 10**7: n += 1\n"
        "return 'x' * 10**9", OVER, OVER),
    "power tower": ("return 9**9**9", OVER, OVER),
    "large powers": ("return pow(3, 10**8) % 7", OVER, OVER),
    "factorial": ("import math\nreturn math.factorial(10**7) % 7", OVER, OVER),
    "digits": ("import sys\nsys.set_int_max_str_digits(0)\nreturn len(str(7**(10**6)))", UNSUPPORTED, OVER),
    "sum a huge range": ("return sum(range(10**12))", TIME, TIME),
    "search a huge range": ("return 0.5 in range(10**12)", VALUE, TIME),
    "count without end": ("import itertools\nreturn list(itertools.count())", OVER, OVER),
    "permutations": ("import itertools\nreturn len(list(itertools.permutations(range(12))))", OVER, OVER),
    "regular expression bomb": ("import re\nreturn bool(re.match('(a|aa)+$', 'a' * 64 + 'b'))", VALUE, TIME),
    "nested quantifiers": ("import re\nreturn bool(re.match('((a*)*)*$', 'a' * 64 + 'b'))", VALUE, TIME),
    "large regular expression": (
        "import re\nreturn bool(re.match('(' * 5000 + 'a' + ')' * 5000, 'a'))", ERROR, RECURSION),
    "replace": ("s = 'a' * 1000\nwhile True: s = s.replace('a', 'ab')[:100000]", OVER, OVER),
    # memory
    "string": ("return 'x' * 10**10", MEMORY, MEMORY),
    "doubling list": ("x = [0]\nwhile True: x = x + x", OVER, OVER),
    "growing list": ("x = []\nwhile True: x.append(x[:])", OVER, OVER),
    "growing dict": ("d = {}\nwhile True: d[len(d)] = 'x' * 1000", OVER, OVER),
    "swallow the end of memory": (
        "while True:\n    try: x = [0] * 10**9\n    except MemoryError: pass", OVER, OVER),
    "width": ("return f'{a:1000000000}'", OVER, OVER),
    "width by percent": ("return '%1000000000d' % a", MEMORY, MEMORY),
    "join": ("return ','.join(['x' * 10**6] * 10**4)", OVER, OVER),
    "a list many times in one": ("x = []\nfor _ in range(40): x = [x, x]\nreturn x", OVER, NOT_LITERAL),
    "range as list": ("return list(range(10**9))", OVER, OVER),
    "bytes": ("return bytes(10**10)", MEMORY, MEMORY),
    # depth
    "recursion": ("return f(a + 1)", RECURSION, RECURSION),
    "recursion both ways": ("def g(n): return f(n)\nreturn g(a)", RECURSION, RECURSION),
    "swallow the recursion": ("try: return f(a)\nexcept RecursionError: return f(a)", TIME, TIME),
    "raise the recursion limit": ("import sys\nsys.setrecursionlimit(10**9)\nreturn f(a)", UNSUPPORTED, TIME),
    "deep list": ("x = []\nfor _ in range(20000): x = [x]\nreturn x", NOT_LITERAL, NOT_LITERAL),
    "compare deep lists": (
        "x, y = [], []\nfor _ in range(20000): x, y = [x], [y]\nreturn x == y", RECURSION, RECURSION),
    "hash a deep tuple": ("x = ()\nfor _ in range(20000): x = (x,)\nreturn hash(x)", RECURSION, VALUE),
    "deep JSON": ("import json\nreturn json.loads('[' * 100000)", ERROR, RECURSION),
    "deep source": ("def f(a): return " + "(" * 5000 + "1" + ")" * 5000, UNSUPPORTED, SYNTAX),
    "deep literal": ("def f(a): return " + "[" * 150 + "]" * 150, NOT_LITERAL, NOT_LITERAL),
    "deep blocks": (
        "def f(a):\n" + "".join(" " * n + "if a:\n" for n in range(1, 120)) + " " * 120 + "return 1", VALUE, SYNTAX),
    "minus signs": ("def f(a): return " + "-" * 40000 + "1", UNSUPPORTED, MEMORY),
    "long sum": ("def f(a): return " + "+".join(["a"] * 3000), UNSUPPORTED, RECURSION),
    # what is printed and returned
    "print without end": ("while True: print('x' * 1000)", OVER, OVER),
    "print much": ("print('x' * 10**7)\nreturn 1", OVER, VALUE),
    "return itself": ("return f", NOT_LITERAL, NOT_LITERAL),
    "return a list that holds itself": ("x = []\nx.append(x)\nreturn x", NOT_LITERAL, NOT_LITERAL),
    "return a huge integer": ("return 10**4000", NOT_LITERAL, NOT_LITERAL),
    "return a long string": ("return 'x' * 10**6", NOT_LITERAL, NOT_LITERAL),
    "return half a character": ("return chr(0xD800)", ERROR, NOT_LITERAL),
    "return a generator": ("def g():\n    while True: yield 1\nreturn g()", UNSUPPORTED, NOT_LITERAL),
    # classes that lie
    "lie in repr": ("class A:\n    def __repr__(self): return '7'\nreturn A()", NOT_LITERAL, NOT_LITERAL),
    "lie in repr, inside a list": (
        "class A:\n    def __repr__(self): return '7'\nreturn [A()]", NOT_LITERAL, NOT_LITERAL),
    "lie in eq and hash": (
        "class A:\n    def __eq__(self, other): return True\n    def __hash__(self): return hash(7)\nreturn {7: A()}",
        NOT_LITERAL, NOT_LITERAL),
    "an int that lies": ("class A(int):\n    def __repr__(self): return '8'\nreturn A(7)", UNSUPPORTED, NOT_LITERAL),
    "evil sort key": (
        "class A:\n    def __lt__(self, other):\n        while True: pass\nreturn len(sorted([A(), A()]))",
        ERROR, TIME),
    "evil key function": ("return sorted(range(10), key=lambda v: f(a))", RECURSION, RECURSION),
    "evil del": (
        "class A:\n    def __del__(self):\n        while True: pass\nA()\nreturn 1", VALUE, TIME),
    "rise again in del": (
        "class A:\n    def __del__(self): kept.append(self)\nkept = []\nA()\nreturn len(kept)", VALUE, VALUE),
    # introspection and code
    "all subclasses": ("return len(().__class__.__base__.__subclasses__())", UNSUPPORTED, VALUE),
    "globals of a function": ("return sorted(f.__globals__)[:1]", ERROR, VALUE),
    "frames": ("import sys\nreturn sys._getframe(3).f_locals['request']['program'][:3]", UNSUPPORTED, ERROR),
    "code objects": ("return f.__code__.co_name", ERROR, VALUE),
    "builtins": ("import builtins\nbuiltins.len = lambda x: 99\nreturn len([])", UNSUPPORTED, VALUE),
    "eval": ("return eval('__import__(\"os\").getcwd()')", UNSUPPORTED, VALUE),
    "exec": ("exec('while True: pass')", TIME, TIME),
    "compile": ("return eval(compile('1 + 1', '', 'eval'))", UNSUPPORTED, VALUE),
    "pickle": ("import pickle\nreturn pickle.loads(b\"cos\\nsystem\\n(S'id'\\ntR.\")", UNSUPPORTED, VALUE),
    "import what is not there": ("import numpy\nreturn 1", ERROR, ERROR),
    "collect garbage": ("import gc\nreturn len(gc.get_objects()) > 0", UNSUPPORTED, VALUE),
    "leave": ("import sys\nsys.exit(0)", UNSUPPORTED, ERROR),
    "leave at once": ("import os\nos._exit(0)", UNSUPPORTED, CRASH),
    "abort": ("import os\nos.abort()", UNSUPPORTED, CRASH),
    "fault": ("import faulthandler\nfaulthandler._sigsegv()", UNSUPPORTED, VALUE),
    "raise what nobody catches": ("raise KeyboardInterrupt", ERROR, ERROR),
    "pretend a time-out": ("raise TimeoutError('late')", ERROR, ERROR),
    "answer for the worker": (
        "import os\nfor n in range(9):\n    try: os.write(n, b'{\"value\": \"7\"}')\n    except: 0\nos._exit(0)",
        UNSUPPORTED, VALUE),
    "replace the worker's parts": (
        "import sys\nsys.modules['azero.sandbox.literals'].write = None\nreturn 1", UNSUPPORTED, VALUE),
    "coroutine": ("async def g():\n    while True: pass\nreturn g()", NOT_LITERAL, NOT_LITERAL),
    "run a coroutine": (
        "import asyncio\nasync def g():\n    while True: pass\nreturn asyncio.run(g())", TIME, PERMISSION),
    "no function f": ("g = 1\ndef fun(a): return a", ERROR, ERROR),
    "f is no function": ("f = 3\n#def f", ERROR, ERROR),
    "not Python": ("def f(a) return a", SYNTAX, SYNTAX),
}  # fmt: skip


def program(text: str, canary: str, port: int) -> str:
    """The whole program of a row."""
    text = text.replace("{canary}", canary).replace("{port}", str(port))
    return text if "def f" in text else f"def f(a):\n{indent(text, '    ')}"
