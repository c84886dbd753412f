/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Memory that others write meanwhile: each access is one of the program's. */
#ifndef XVS_ONCE_H
#define XVS_ONCE_H

#define READ_ONCE(x) (*(volatile typeof(x) *)&(x))
#define WRITE_ONCE(x, value) (*(volatile typeof(x) *)&(x) = (value))

#endif
