// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Reads files with the real parser, libxlutil, and prints a line for each: what it made of the settings a to h, or the
 * line of the first error. The names of the files come from standard input.
 *
 *   a=S616263;b=L[S31,L[],];      strings in hexadecimal, lists in brackets
 *   E 7 unexpected NEWLINE        the line as libxlutil says it, and whether it was the end of a line that it met
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <libxlutil.h>

static void print_value(XLU_Config *config, XLU_ConfigValue *value)
{
    if (xlu_cfg_value_type(value) == XLU_STRING) {
        char *text;

        if (xlu_cfg_value_get_string(config, value, &text, 1))
            exit(3);
        putchar('S');
        for (; *text; text++)
            printf("%02x", (unsigned char)*text);
    } else {
        XLU_ConfigList *list;
        XLU_ConfigValue *item;

        if (xlu_cfg_value_get_list(config, value, &list, 1))
            exit(3);
        putchar('[');
        for (int i = 0; (item = xlu_cfg_get_listitem2(list, i)); i++) {
            print_value(config, item);
            putchar(',');
        }
        putchar(']');
    }
}

static void print_settings(XLU_Config *config)
{
    for (char name[2] = "a"; name[0] <= 'h'; name[0]++) {
        const char *text;
        XLU_ConfigList *list;
        XLU_ConfigValue *item;
        int entries;

        if (!xlu_cfg_get_string(config, name, &text, 1)) {
            printf("%s=S", name);
            for (; *text; text++)
                printf("%02x", (unsigned char)*text);
            putchar(';');
        } else if (!xlu_cfg_get_list(config, name, &list, &entries, 1)) {
            printf("%s=[", name);
            for (int i = 0; (item = xlu_cfg_get_listitem2(list, i)); i++) {
                print_value(config, item);
                putchar(',');
            }
            printf("];");
        }
    }
    putchar('\n');
}

int main(void)
{
    char path[4096];

    while (fgets(path, sizeof(path), stdin)) {
        static char data[1 << 20];
        char *report = NULL;
        size_t report_size = 0;
        FILE *file, *messages;
        XLU_Config *config;
        int length, line = 0;

        path[strcspn(path, "\n")] = 0;
        file = fopen(path, "r");
        if (!file) {
            perror(path);
            return 3;
        }
        length = (int)fread(data, 1, sizeof(data), file);
        fclose(file);
        messages = open_memstream(&report, &report_size);
        config = xlu_cfg_init(messages, "f");
        if (!messages || !config)
            return 3;
        if (xlu_cfg_readdata(config, data, length)) {
            fflush(messages);
            sscanf(report, "f:%d:", &line);
            report[strcspn(report, "\n")] = 0;
            printf("E %d%s\n", line, strstr(report, "unexpected NEWLINE") ? " unexpected NEWLINE" : "");
        } else {
            print_settings(config);
        }
        xlu_cfg_destroy(config);
        fclose(messages);
        free(report);
    }
    return 0;
}
