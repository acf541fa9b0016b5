/* A certificate for targets that speak TLS, made when first asked for: its own authority, for the name localhost. */
#ifndef ORDINAL_TESTS_FUZZ_CERTIFICATE_H
#define ORDINAL_TESTS_FUZZ_CERTIFICATE_H

/* The path of a PEM file, in memory, with the certificate and its key. Valid until the process ends. */
const char *certificate_file(void);

#endif
