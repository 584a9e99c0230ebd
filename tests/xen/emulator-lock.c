/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Preloaded into the QEMU that emulates Xen's machine. A guest that writes CR8 while Xen waits for it to take an interrupt makes that
 * QEMU end: helper_write_crN (target/i386/tcg/sysemu/misc_helper.c, 7.2) raises SVM's virtual interrupt without the lock that
 * tcg_handle_interrupt asserts. Firmware made from EDK II writes CR8 at the end of every interrupt. TCG is a module of Debian's QEMU,
 * so that its reference to the function below is resolved to this one, which takes the lock where the caller has not.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

bool qemu_mutex_iothread_locked(void);
void qemu_mutex_lock_iothread_impl(const char *file, int line);
void qemu_mutex_unlock_iothread(void);

void tcg_handle_interrupt(void *cpu, int mask)
{
    static void (*original)(void *cpu, int mask);
    bool locked = qemu_mutex_iothread_locked();

    if (!original) {
        char file[4096];
        void *module;

        snprintf(file, sizeof(file), "%s/accel-tcg-x86_64.so", getenv("QEMU_MODULE_DIR"));
        module = dlopen(file, RTLD_LAZY | RTLD_NOLOAD);
        *(void **)&original = module ? dlsym(module, "tcg_handle_interrupt") : NULL;
        if (!original) {
            fprintf(stderr, "emulator-lock: no tcg_handle_interrupt in %s\n", file);
            abort();
        }
    }
    if (!locked)
        qemu_mutex_lock_iothread_impl(__FILE__, __LINE__);
    original(cpu, mask);
    if (!locked)
        qemu_mutex_unlock_iothread();
}
