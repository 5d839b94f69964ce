"""The context is terminated while a socket is still referenced somewhere.

pip install pyzmq
"""

import faulthandler

import zmq

faulthandler.dump_traceback_later(8, exit=True)


class Client:
    def __init__(self, context):
        self.socket = context.socket(zmq.PUSH)
        self.socket.connect("inproc://nobody")


context = zmq.Context()
client = Client(context)
context.term()
print("ended")
