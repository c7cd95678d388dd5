"""Lambda function URLs on localhost, without Docker and without AWS.

An HTTP server turns each request into an invocation and streams the response; the function runs in execution
environments behind it. `python -m local` is the command line, `function_url.running` serves a function in a test.

The modules lie in layers, and imports only run downward:

    cli        __main__  terminal  reload  sign_in  probe  proxy  load  imports  build  aws_data  requirements  new
    http       function_url  inspector  issuer  cors  limits
    sandbox    pool  sandbox  debugger  runtime_api  traces  journal
    model      events  responses  messages  invocation
    base       archive  client  template  environment  aws  aws_limits  access  http_server  http_protocol
"""
