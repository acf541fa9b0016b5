/* For LD_PRELOAD: notes which thread makes private-key and key-exchange operations, and holds
 * those that are under way for as long as a file exists. HOLD_KEYS names the file; the notes,
 * one line an operation, go to the same name with ".log". Tests of what a TLS handshake may hold
 * up. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void note(const char *path, const char *what)
{
	char line[128], thread[16] = "", log[4096];
	pthread_getname_np(pthread_self(), thread, sizeof thread);
	snprintf(log, sizeof log, "%s.log", path);
	int fd = open(log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
	int n = snprintf(line, sizeof line, "%s %s\n", thread, what);
	if (fd < 0 || write(fd, line, (size_t)n) != n)
		abort();
	close(fd);
}

static void hold(const char *what)
{
	const char *path = getenv("HOLD_KEYS");
	if (!path)
		abort();
	note(path, what);
	while (access(path, F_OK) == 0)
		usleep(5000);
}

int EVP_DigestSign(EVP_MD_CTX *ctx, unsigned char *sig, size_t *siglen, const unsigned char *tbs, size_t tbslen)
{
	int (*real)(EVP_MD_CTX *, unsigned char *, size_t *, const unsigned char *, size_t);
	*(void **)&real = dlsym(RTLD_NEXT, "EVP_DigestSign");
	if (sig)
		hold("sign");
	return real(ctx, sig, siglen, tbs, tbslen);
}

int EVP_PKEY_derive(EVP_PKEY_CTX *ctx, unsigned char *key, size_t *keylen)
{
	int (*real)(EVP_PKEY_CTX *, unsigned char *, size_t *);
	*(void **)&real = dlsym(RTLD_NEXT, "EVP_PKEY_derive");
	if (key)
		hold("derive");
	return real(ctx, key, keylen);
}
