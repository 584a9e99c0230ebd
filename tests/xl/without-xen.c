// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Preloaded into Debian's `xl`: stands in for the hypervisor calls and the xenstore connection that `xl create -n`
 * makes before it parses a configuration, so that the real parser runs on a machine without Xen. Nothing here
 * touches what is parsed or printed.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static char handle[1 << 16];

void *xc_interface_open(void *logger, void *dombuild_logger, unsigned flags)
{
    (void)logger; (void)dombuild_logger; (void)flags;
    return handle;
}

int xc_interface_close(void *xch) { (void)xch; return 0; }

void *xs_open(unsigned long flags) { (void)flags; return handle; }

void xs_close(void *xsh) { (void)xsh; }

int xc_version(void *xch, int cmd, void *arg)
{
    (void)xch;
    /* XENVER_extraversion and the like: short strings; XENVER_pagesize (7) and XENVER_version (0): in the result. */
    if (arg)
        memset(arg, 0, 16);
    return cmd == 0 ? (4 << 16 | 17) : cmd == 7 ? 4096 : 0;
}

/* xc_physinfo_t starts with threads a core, cores a socket, CPUs, highest CPU, nodes, highest node. */
int xc_physinfo(void *xch, void *info)
{
    const uint32_t start[] = { 1, 8, 8, 7, 1, 0 };

    (void)xch;
    memcpy(info, start, sizeof(start));
    return 0;
}

int xc_get_max_cpus(void *xch) { (void)xch; return 8; }
int xc_get_max_nodes(void *xch) { (void)xch; return 1; }
long xc_sharing_freed_pages(void *xch) { (void)xch; return 0; }
long xc_sharing_used_frames(void *xch) { (void)xch; return 0; }
int xc_sched_id(void *xch, int *id) { (void)xch; *id = 5; return 0; }

void *xencall_open(void *logger, unsigned flags) { (void)logger; (void)flags; return handle; }
int xencall_close(void *xcall) { (void)xcall; return 0; }
void *xencall_alloc_buffer(void *xcall, size_t size) { (void)xcall; return calloc(1, size); }
void *xencall_alloc_buffer_pages(void *xcall, size_t pages) { (void)xcall; return calloc(pages, 4096); }
void xencall_free_buffer(void *xcall, void *p) { (void)xcall; free(p); }
void xencall_free_buffer_pages(void *xcall, void *p, size_t pages) { (void)xcall; (void)pages; free(p); }
int xencall0(void *x, unsigned op) { (void)x; (void)op; return 0; }
int xencall1(void *x, unsigned op, uint64_t a) { (void)x; (void)op; (void)a; return 0; }
int xencall2(void *x, unsigned op, uint64_t a, uint64_t b) { (void)x; (void)op; (void)a; (void)b; return 0; }
