/* Makes a certificate; see the header. */
#include "tests/fuzz/certificate.h"
#include "core/base/check.h"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

static X509 *make(EVP_PKEY *key)
{
	X509 *cert = X509_new();
	CHECK(cert && X509_set_version(cert, X509_VERSION_3));
	CHECK(ASN1_INTEGER_set(X509_get_serialNumber(cert), 1));
	CHECK(X509_gmtime_adj(X509_getm_notBefore(cert), -3600));
	CHECK(X509_gmtime_adj(X509_getm_notAfter(cert), 30L * 24 * 3600));
	X509_NAME *name = X509_get_subject_name(cert);
	CHECK(X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"localhost", -1, -1, 0));
	CHECK(X509_set_issuer_name(cert, name) && X509_set_pubkey(cert, key) && X509_sign(cert, key, EVP_sha256()));
	return cert;
}

const char *certificate_file(void)
{
	static char path[32];
	if (*path)
		return path;
	int fd = memfd_create("certificate", MFD_CLOEXEC);
	CHECK(fd >= 0);
	FILE *f = fdopen(dup(fd), "w");
	EVP_PKEY *key = EVP_EC_gen("P-256");
	CHECK(f && key);
	X509 *cert = make(key);
	CHECK(PEM_write_X509(f, cert) && PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL));
	CHECK(fclose(f) == 0);
	X509_free(cert);
	EVP_PKEY_free(key);
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	return path;
}
