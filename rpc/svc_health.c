/* The service grpc.health.v1.Health. Runs on the shard; watchers are linked through their calls. Source: gRPC's health-checking.md.
 *
 *   Watch --known service--> SERVING --drain--> NOT_SERVING --> OK       Watch --unknown--> SERVICE_UNKNOWN, and stays open
 */
#include "rpc/svc_health.h"
#include "core/base/check.h"
#include "grpc/health/v1/health.pb-c.h"

#include <string.h>

typedef Grpc__Health__V1__HealthCheckResponse Response;

struct watcher {
	struct watcher *next, **link;
	bool known;
};
_Static_assert(sizeof(struct watcher) <= sizeof(((struct call *)0)->svc), "a watcher fits into its call");

static struct watcher *watcher_of(struct call *c)
{
	return (struct watcher *)&c->svc;
}

static bool is_known(const struct call *c, const char *service)
{
	const struct method_table *t = c->rpc->methods;
	if (!*service)
		return true;
	for (unsigned i = 0; i < t->count; i++) {
		if (strcmp(t->method[i]->service, service) == 0)
			return true;
	}
	return false;
}

static void set_status(const struct call *c, Response *r, bool known)
{
	r->status = !known                    ? GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN
		    : c->rpc->shard->draining ? GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING
					      : GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING;
}

static void check(struct call *c, const ProtobufCMessage *m)
{
	const Grpc__Health__V1__HealthCheckRequest *req = (const Grpc__Health__V1__HealthCheckRequest *)m;
	Response r = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
	if (!is_known(c, req->service)) {
		call_finish_text(c, GRPC_NOT_FOUND, "there is no service \"%.100s\" here", req->service);
		return;
	}
	set_status(c, &r, true);
	typed_reply(c, &r.base);
}

typedef Grpc__Health__V1__HealthListResponse__StatusesEntry Entry;

/* The server as a whole, then each of its services once. */
static void list(struct call *c, const ProtobufCMessage *m)
{
	const struct method_table *t = c->rpc->methods;
	Grpc__Health__V1__HealthListResponse r = GRPC__HEALTH__V1__HEALTH_LIST_RESPONSE__INIT;
	Response status = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
	Entry entry[1 + RPC_METHODS_MAX], *entries[1 + RPC_METHODS_MAX];
	set_status(c, &status, true);
	for (unsigned i = 0; i <= t->count; i++) {
		const char *name = i == 0 ? "" : t->method[i - 1]->service;
		bool listed = false;
		for (size_t k = 0; k < r.n_statuses; k++)
			listed |= strcmp(entry[k].key, name) == 0;
		if (listed)
			continue;
		Entry *e = &entry[r.n_statuses];
		grpc__health__v1__health_list_response__statuses_entry__init(e);
		e->key = (char *)(uintptr_t)name;
		e->value = &status;
		entries[r.n_statuses++] = e;
	}
	r.statuses = entries;
	typed_reply(c, &r.base);
}

static void link_watcher(struct call *c, bool known)
{
	struct watcher *w = watcher_of(c);
	w->known = known;
	w->next = c->rpc->health;
	w->link = (struct watcher **)&c->rpc->health;
	if (w->next)
		w->next->link = &w->next;
	c->rpc->health = w;
}

static void unlink_watcher(struct watcher *w)
{
	*w->link = w->next;
	if (w->next)
		w->next->link = w->link;
}

static void watch_cancel(struct call *c)
{
	struct watcher *w = watcher_of(c);
	if (w->link)
		unlink_watcher(w);
	w->link = NULL;
}

static void watch(struct call *c, const ProtobufCMessage *m)
{
	const Grpc__Health__V1__HealthCheckRequest *req = (const Grpc__Health__V1__HealthCheckRequest *)m;
	Response r = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
	bool known = is_known(c, req->service);
	set_status(c, &r, known);
	typed_send(c, &r.base);
	if (!c->live) /* there was no memory to say so */
		return;
	if (c->rpc->shard->draining) /* there is nothing more to come */
		call_finish(c, GRPC_OK, (struct span){0});
	else
		link_watcher(c, known);
}

void svc_health_drain(struct rpc_shard *r)
{
	while (r->health) {
		struct watcher *w = r->health;
		struct call *c = (struct call *)(void *)((char *)w - offsetof(struct call, svc));
		Response resp = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
		DCHECK(w->link);
		unlink_watcher(w);
		w->link = NULL;
		set_status(c, &resp, w->known);
		if (w->known)
			typed_send(c, &resp.base);
		if (c->live)
			call_finish(c, GRPC_OK, (struct span){0});
	}
}

const struct typed_method svc_health_methods[SVC_HEALTH_METHODS] = {
	{TYPED("grpc.health.v1.Health", "Check", METHOD_UNARY, .access = METHOD_FOR_ALL),
	 &grpc__health__v1__health_check_request__descriptor, check},
	{TYPED("grpc.health.v1.Health", "List", METHOD_UNARY, .access = METHOD_FOR_ALL),
	 &grpc__health__v1__health_list_request__descriptor, list},
	{TYPED("grpc.health.v1.Health", "Watch", METHOD_SERVER_STREAM, .access = METHOD_FOR_ALL,
	       .cancel = watch_cancel),
	 &grpc__health__v1__health_check_request__descriptor, watch},
};
