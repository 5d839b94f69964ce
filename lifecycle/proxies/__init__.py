"""Proxies: existing code, each call a lease.

`SafetyManager.proxy` puts an object behind one; what it gives out is data, a child or the proxy itself, and
never the object. One call through a proxy is `lifecycle._core.calls`, what each is made of
`lifecycle._core.proxied`.

- `making`: `SafetyManager.proxy`, `SafetyManager.proxy_factory`, `handle_of`
- `results`: what is given out of a result
- `classes`: the class of the proxies of a type
- `ending`: the methods after which an object is gone
- `steps`: iterators, generators and coroutines, by the step
- `containers`: lists, dicts and their kin, with what is guarded in them
- `dependents`: what was made of a registered object, and goes before it
- `rules`: `Child`, `VIEW`, and the tree of rules
- `buffers`: memory that keeps its object
- `arrays`: arrays behind proxies, as NumPy asks of them
"""

from lifecycle.proxies.making import handle_of
from lifecycle.proxies.rules import VIEW, Child

__all__ = ["VIEW", "Child", "handle_of"]
