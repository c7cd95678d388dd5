#!/usr/bin/env bash
# Datadog's wrapper of a Lambda handler switches off the alarm that the process has set.
#
# ddtrace 4.16.0, which datadog-lambda 8.130.0 uses, detects timeouts with SIGALRM. It keeps the handler of that signal,
# and restores it after the call, but not the timer: `setitimer` replaces the one that runs, and `alarm(0)` ends it. An
# alarm that was due in 60 s is due 100 ms before the Lambda timeout during the call, and never afterwards.
. "$(dirname "$0")/lib/packages.sh"
packages datadog-lambda==8.130.0 ddtrace==4.16.0

export AWS_LAMBDA_FUNCTION_NAME=demo AWS_REGION=us-east-1 DD_FLUSH_TO_LOG=true DD_COLD_START_TRACING=false
export DD_API_KEY=none DD_LOG_LEVEL=CRITICAL DD_TRACE_ENABLED=true
python -W ignore - <<'PY' 2>errors | tail -n 1 || { cat errors >&2; exit 1; }
import signal

from datadog_lambda.wrapper import datadog_lambda_wrapper


class Context:
    function_name, function_version, aws_request_id = "demo", "1", "1"
    invoked_function_arn = "arn:aws:lambda:us-east-1:123456789012:function:demo"
    memory_limit_in_mb, client_context = 128, None

    def get_remaining_time_in_millis(self):
        return 10_000


@datadog_lambda_wrapper
def handler(event, context):
    during.append(signal.getitimer(signal.ITIMER_REAL)[0])


during = []
signal.signal(signal.SIGALRM, print)
signal.setitimer(signal.ITIMER_REAL, 60)
handler({}, Context())
after = signal.getitimer(signal.ITIMER_REAL)[0]
print(f"seconds until the alarm: 60 before the call, {during[0]:.1f} during it, {after:.1f} after it")
assert 9 < during[0] < 10
assert after == 0
assert signal.getsignal(signal.SIGALRM) is print
PY
