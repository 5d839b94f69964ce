"""The private core: everything that must survive an interrupt, a collection or a fork at any bytecode.

It knows no manager, no thread of the library's own and no log. Other packages use `lifecycle.lowlevel`. A
module here imports from lower lines of this list only:

- `facts`, `leaving`: what adapters know of an object; tables whose entries go as their objects end
- `calls`: one call through a proxy
- `proxied`: what proxies are made of, and their handles
- `register`, `targets`: entering an object; what a handle or id given to a call stands for
- `handle`: one share of ownership, and what can be done with it
- `owning`: one native, one owner
- `detach`, `exclusive`, `room`, `submissions`: taking an object out of the manager; using it alone; making
  room below a limit; what a device was given to use
- `place`: what every release place is, and the one whose releases run on any thread
- `access`, `ends`: checks before an access, and the errors they raise; waiting for an object's end
- `sentences`: what errors say of an object: its state, and what to do
- `holders`, `release`: who keeps an object; running one release, in steps that can be taken up again
- `exports`: memory that foreign code was handed, and how it is known to be done
- `dropped`, `selfkept`: objects whose own deallocation is their release; what is kept by nothing but itself
- `kept`, `leases`, `parents`, `timelines`, `views`: what lives until a release has returned; the right to use
  an object for a block; what an object must not outlive; fences in their order; its memory
- `describe`: the state of an object, its name in messages, what became of it
- `doors`, `shares`, `tables`, `uses`: finding a door in a collection; who may use it; the tables of a
  manager; the pins of a submission
- `budget`, `counters`, `fence`, `nudge`, `referrers`: how much time what is dear may take; the counters
  behind the figures; what a fence is; collecting when nothing comes back; who refers to what
- `waiting`: the one wait of threads and coroutines, in all its forms
- `waiting_list`: why no wake-up is lost
- `waiting_loops`: the half of it that belongs to coroutines
- `record`: the object, its door and its ticket
- `runtime`: the one door to clocks, threads, fork, exit and the collector
- `idioms`: what survives an interrupt at any bytecode, by name: K1 to K7
- `checks`, `default`, `keeping`, `numbers`, `streams`, `timed_queue`: what every call asks of its arguments;
  what was not given, where None means something; objects that exist once, and callbacks that keep nothing
  alive; which number an object is; the program's own output; a queue with exact deadlines
"""
