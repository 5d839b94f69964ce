"""The address of a compiled function outlives the engine that owns its code.

pip install llvmlite
"""

import ctypes

import llvmlite.binding as llvm

llvm.initialize_native_target()
llvm.initialize_native_asmprinter()


def compiled():
    machine = llvm.Target.from_default_triple().create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly("define i32 @f() { ret i32 42 }"), machine)
    engine.finalize_object()
    return ctypes.CFUNCTYPE(ctypes.c_int)(engine.get_function_address("f"))


print(compiled()())
