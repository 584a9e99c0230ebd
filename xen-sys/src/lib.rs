// SPDX-License-Identifier: LGPL-2.1-or-later
//! Xen's constants and structures, and libxenstore loaded at run time.
