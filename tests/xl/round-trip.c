// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Reads libxl's JSON of a domain from standard input into libxl's own structure, and writes it back. Declares what it
 * uses of libxl itself, so that one source serves every release: the structure is opaque here, and large enough.
 */
#include <stdio.h>
#include <stdlib.h>
#include <xentoollog.h>

typedef struct libxl__ctx libxl_ctx;

int libxl_ctx_alloc(libxl_ctx **ctx, int version, unsigned flags, xentoollog_logger *lg);
void libxl_domain_config_init(void *config);
int libxl_domain_config_from_json(libxl_ctx *ctx, void *config, const char *json);
char *libxl_domain_config_to_json(libxl_ctx *ctx, void *config);

int main(void)
{
    static char text[1 << 20];
    static long long config[1 << 16];
    xentoollog_logger *log = (xentoollog_logger *)xtl_createlogger_stdiostream(stderr, XTL_ERROR, 0);
    libxl_ctx *ctx;
    char *again;

    text[fread(text, 1, sizeof(text) - 1, stdin)] = 0;
    if (libxl_ctx_alloc(&ctx, 0, 0, log))
        return 3;
    libxl_domain_config_init(config);
    if (libxl_domain_config_from_json(ctx, config, text))
        return 1;
    again = libxl_domain_config_to_json(ctx, config);
    if (!again)
        return 3;
    puts(again);
    return 0;
}
