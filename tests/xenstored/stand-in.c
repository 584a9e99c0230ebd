// SPDX-License-Identifier: LGPL-2.1-or-later
//
// Stands in for the hypervisor under a genuine xenstored, so that the daemon runs where there is no Xen.
// Preloaded; nothing of the daemon is changed. What the hypervisor would know is in the directory that
// STAND_IN_DIRECTORY names:
//
//   kva, port   domain 0's ring page and event channel, in place of /proc/xen/xsd_kva and xsd_port
//   ring-N      domain N exists, and this is its xenstore ring page
//   dying-N     domain N is dying
//   events      a fifo: each 32-bit number written to it is an event on that local port
//
// A domain's local port is 100 + N; port 1 says that some domain's state has changed.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <xenctrl.h>
#include <xenevtchn.h>
#include <xengnttab.h>

enum { PAGE = 4096, DOMAIN_STATE_PORT = 1, FIRST_DOMAIN_PORT = 100, LAST_DOMID = 1023 };

static char handle; // what every "open" returns the address of

static void place(char *buffer, size_t size, const char *format, ...)
{
    const char *directory = getenv("STAND_IN_DIRECTORY");
    int length = snprintf(buffer, size, "%s/", directory ? directory : ".");
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(buffer + length, size - length, format, arguments);
    va_end(arguments);
}

static int domain_exists(uint32_t domid)
{
    char path[512];

    place(path, sizeof path, "ring-%u", domid);
    return domid == 0 || access(path, F_OK) == 0;
}

static int domain_is_dying(uint32_t domid)
{
    char path[512];

    place(path, sizeof path, "dying-%u", domid);
    return access(path, F_OK) == 0;
}

static void *map_ring(uint32_t domid)
{
    char path[512];
    int fd;
    void *page;

    place(path, sizeof path, "ring-%u", domid);
    fd = open(path, O_RDWR);
    if (fd < 0)
        return NULL;
    page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return page == MAP_FAILED ? NULL : page;
}

// libxenctrl

xc_interface *xc_interface_open(xentoollog_logger *logger, xentoollog_logger *dombuild, unsigned flags)
{
    return (xc_interface *)&handle;
}

int xc_interface_close(xc_interface *xch)
{
    return 0;
}

int xc_domain_getinfo(xc_interface *xch, uint32_t first, unsigned int max, xc_dominfo_t *info)
{
    if (max == 0 || !domain_exists(first))
        return 0;
    memset(info, 0, sizeof *info);
    info->domid = first;
    info->dying = domain_is_dying(first);
    return 1;
}

int xc_domain_getinfolist(xc_interface *xch, uint32_t first, unsigned int max, xc_domaininfo_t *info)
{
    unsigned int found = 0;

    for (uint32_t domid = first; domid <= LAST_DOMID && found < max; domid++) {
        if (!domain_exists(domid))
            continue;
        memset(&info[found], 0, sizeof info[found]);
        info[found].domain = domid;
        info[found].flags = domain_is_dying(domid) ? XEN_DOMINF_dying : 0;
        found++;
    }
    return found;
}

void *xc_map_foreign_range(xc_interface *xch, uint32_t domid, int size, int protection, unsigned long mfn)
{
    return map_ring(domid);
}

// libxengnttab

xengnttab_handle *xengnttab_open(struct xentoollog_logger *logger, unsigned flags)
{
    return (xengnttab_handle *)&handle;
}

int xengnttab_close(xengnttab_handle *xgt)
{
    return 0;
}

int xengnttab_set_max_grants(xengnttab_handle *xgt, uint32_t count)
{
    return 0;
}

void *xengnttab_map_grant_ref(xengnttab_handle *xgt, uint32_t domid, uint32_t ref, int protection)
{
    return map_ring(domid);
}

int xengnttab_unmap(xengnttab_handle *xgt, void *start, uint32_t count)
{
    return munmap(start, (size_t)count * PAGE);
}

// libxenevtchn

static int events(void)
{
    static int fd = -1;
    char path[512];

    if (fd < 0) {
        place(path, sizeof path, "events");
        fd = open(path, O_RDWR | O_NONBLOCK); // for writing too: a fifo without a writer is always readable
    }
    return fd;
}

xenevtchn_handle *xenevtchn_open(struct xentoollog_logger *logger, unsigned int flags)
{
    return events() < 0 ? NULL : (xenevtchn_handle *)&handle;
}

xenevtchn_handle *xenevtchn_fdopen(struct xentoollog_logger *logger, int fd, unsigned int flags)
{
    return xenevtchn_open(logger, flags);
}

int xenevtchn_close(xenevtchn_handle *xce)
{
    return 0;
}

int xenevtchn_fd(xenevtchn_handle *xce)
{
    return events();
}

int xenevtchn_notify(xenevtchn_handle *xce, evtchn_port_t port)
{
    return 0; // the guests of the tests look at their rings without being told
}

xenevtchn_port_or_error_t xenevtchn_bind_interdomain(xenevtchn_handle *xce, uint32_t domid, evtchn_port_t remote)
{
    return FIRST_DOMAIN_PORT + domid;
}

xenevtchn_port_or_error_t xenevtchn_bind_virq(xenevtchn_handle *xce, unsigned int virq)
{
    return DOMAIN_STATE_PORT;
}

int xenevtchn_unbind(xenevtchn_handle *xce, evtchn_port_t port)
{
    return 0;
}

int xenevtchn_unmask(xenevtchn_handle *xce, evtchn_port_t port)
{
    return 0;
}

xenevtchn_port_or_error_t xenevtchn_pending(xenevtchn_handle *xce)
{
    uint32_t port;

    return read(events(), &port, sizeof port) == sizeof port ? (xenevtchn_port_or_error_t)port : -1;
}

// libc: what the daemons want from the host

int setrlimit(__rlimit_resource_t resource, const struct rlimit *limit)
{
    return 0; // oxenstored asks for more open files than a container may have
}

int open(const char *path, int flags, ...)
{
    int (*next)(const char *, int, ...) = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open");
    char moved[512];
    mode_t mode = 0;

    if (flags & (O_CREAT | O_TMPFILE)) {
        va_list arguments;

        va_start(arguments, flags);
        mode = va_arg(arguments, mode_t);
        va_end(arguments);
    }
    if (strcmp(path, "/proc/xen/xsd_kva") == 0)
        place(moved, sizeof moved, "kva");
    else if (strcmp(path, "/proc/xen/xsd_port") == 0)
        place(moved, sizeof moved, "port");
    else
        return next(path, flags, mode);
    return next(moved, flags, mode);
}

// oxenstored's socket has a fixed place, where a host's own daemon may have its socket.

static int is_fixed_socket(const char *path)
{
    return strcmp(path, "/var/run/xenstored/socket") == 0 || strcmp(path, "/run/xenstored/socket") == 0;
}

int bind(int fd, const struct sockaddr *address, socklen_t length)
{
    int (*next)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "bind");
    const struct sockaddr_un *local = (const struct sockaddr_un *)address;
    struct sockaddr_un moved = { .sun_family = AF_UNIX };

    if (address->sa_family != AF_UNIX || !is_fixed_socket(local->sun_path))
        return next(fd, address, length);
    place(moved.sun_path, sizeof moved.sun_path, "socket");
    return next(fd, (const struct sockaddr *)&moved, sizeof moved);
}

int unlink(const char *path)
{
    int (*next)(const char *) = dlsym(RTLD_NEXT, "unlink");
    char moved[512];

    if (!is_fixed_socket(path))
        return next(path);
    place(moved, sizeof moved, "socket");
    return next(moved);
}
