/* The control plane: gRPC's six methods of expert.proto on a Unix socket. One thread owns all connections; calls of Forward
 * and Drain run on others, so that Ping is answered beside them. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <nghttp2/nghttp2.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "expert.h"

enum { WORKERS = 4, MESSAGE = 256 << 20 };

struct connection {
    int fd;
    struct call *calls; /* that refer to it */
    SSL *tls;
    nghttp2_session *session;
    const uint8_t *out; /* what nghttp2 wants sent */
    size_t left;
    bool dead;
};

struct call {
    struct connection *on;
    int32_t stream;
    char path[64];
    struct buffer body, reply;
    size_t sent;
    struct failure failure;
    bool gone, busy; /* its stream has ended; it runs */
    struct call *next;    /* in todo or done */
    struct call *sibling; /* of the same connection */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards both lists */
static pthread_cond_t work = PTHREAD_COND_INITIALIZER;
static struct call *todo, *done;
static int wake = -1;
static volatile _Atomic bool ending;

void terminate(void) {
    uint64_t one = 1;
    atomic_store(&ending, true);
    if (wake >= 0 && write(wake, &one, sizeof one) < 0)
        _exit(1);
}

static void push(struct call **list, struct call *c) {
    c->next = NULL;
    while (*list)
        list = &(*list)->next;
    *list = c;
}

static void run(struct call *c) {
    const uint8_t *b = c->body.data + 5; /* behind the flag and the length */
    size_t n = c->body.length - 5;
    uint32_t rows = 0;
    uint64_t now[3];
    const char *method = c->path + strlen("/pimoe.v1.Expert/");
    if (c->body.length < 5 || b[-5] || n != ((size_t)b[-4] << 24 | b[-3] << 16 | b[-2] << 8 | b[-1])) {
        fail(&c->failure, INVALID, "no uncompressed message");
    } else if (!strcmp(method, "Info")) {
        put_info(&c->reply);
    } else if (!strcmp(method, "Load")) {
        if (take_load(b, n, &c->failure))
            put_load_reply(&c->reply);
    } else if (!strcmp(method, "Forward")) {
        if (enter()) {
            take_forward(b, n, &c->reply, &c->failure, &rows);
            leave(rows, c->failure.status != OK);
        } else {
            fail(&c->failure, UNAVAILABLE, "the plugin is ending");
        }
    } else if (!strcmp(method, "Ping")) {
        if (draining())
            put_numbers(&c->reply, (uint64_t[]){1}, 1);
    } else if (!strcmp(method, "Stats")) {
        counts(now);
        put_numbers(&c->reply, now, 3);
    } else if (!strcmp(method, "Drain")) {
        drain(true);
    } else {
        fail(&c->failure, UNSUPPORTED, "method %.40s", method);
    }
}

static void *worker(void *unused) {
    (void)unused;
    for (uint64_t one = 1;;) {
        pthread_mutex_lock(&lock);
        while (!todo)
            pthread_cond_wait(&work, &lock);
        struct call *c = todo;
        todo = c->next;
        pthread_mutex_unlock(&lock);
        run(c);
        pthread_mutex_lock(&lock);
        push(&done, c);
        pthread_mutex_unlock(&lock);
        if (write(wake, &one, sizeof one) < 0)
            die("wake the control thread");
    }
    return NULL;
}

static void forget(struct call *c) {
    struct call **at = &c->on->calls;
    while (*at != c)
        at = &(*at)->sibling;
    *at = c->sibling;
    free(c->body.data);
    free(c->reply.data);
    free(c);
}

#define HEADER(n, v) {(uint8_t *)n, (uint8_t *)v, strlen(n), strlen(v), NGHTTP2_NV_FLAG_NONE}

static ssize_t read_reply(nghttp2_session *s, int32_t stream, uint8_t *to, size_t room, uint32_t *flags, nghttp2_data_source *from, void *unused) {
    (void)unused;
    struct call *c = from->ptr;
    size_t n = c->reply.length - c->sent;
    n = n < room ? n : room;
    memcpy(to, c->reply.data + c->sent, n);
    if ((c->sent += n) == c->reply.length) {
        nghttp2_nv trailer[] = {HEADER("grpc-status", "0")};
        *flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
        nghttp2_submit_trailer(s, stream, trailer, 1);
    }
    return n;
}

/* answer sends what a call gave. */
static void answer(struct call *c) {
    static const char *const codes[] = {[OK] = "0", [UNKNOWN] = "2", [INVALID] = "3", [NOT_FOUND] = "5", [UNAVAILABLE] = "14", [UNSUPPORTED] = "12"};
    c->busy = false;
    if (c->gone || c->on->dead) {
        forget(c);
        return;
    }
    if (c->failure.status) {
        for (char *t = c->failure.text; *t; t++) /* as HTTP carries it */
            if (*t < ' ' || *t > '~' || *t == '%')
                *t = '?';
        nghttp2_nv headers[] = {HEADER(":status", "200"), HEADER("content-type", "application/grpc"), HEADER("grpc-status", codes[c->failure.status]), HEADER("grpc-message", c->failure.text)};
        nghttp2_submit_response(c->on->session, c->stream, headers, 4, NULL);
        return;
    }
    size_t n = c->reply.length;
    struct buffer framed = {0};
    put(&framed, (uint8_t[]){0, n >> 24, n >> 16, n >> 8, n}, 5);
    put(&framed, c->reply.data, n);
    free(c->reply.data);
    c->reply = framed;
    nghttp2_nv headers[] = {HEADER(":status", "200"), HEADER("content-type", "application/grpc")};
    nghttp2_data_provider provider = {.source = {.ptr = c}, .read_callback = read_reply};
    nghttp2_submit_response(c->on->session, c->stream, headers, 2, &provider);
}

static int on_begin(nghttp2_session *s, const nghttp2_frame *f, void *user) {
    if (f->hd.type != NGHTTP2_HEADERS || f->headers.cat != NGHTTP2_HCAT_REQUEST)
        return 0;
    struct call *c = checked(sizeof *c);
    c->on = user, c->stream = f->hd.stream_id, c->sibling = c->on->calls;
    c->on->calls = c;
    return nghttp2_session_set_stream_user_data(s, c->stream, c);
}

static int on_header(nghttp2_session *s, const nghttp2_frame *f, const uint8_t *name, size_t n, const uint8_t *value, size_t v, uint8_t flags, void *user) {
    (void)flags, (void)user;
    struct call *c = nghttp2_session_get_stream_user_data(s, f->hd.stream_id);
    if (c && n == 5 && !memcmp(name, ":path", 5) && v < sizeof c->path)
        memcpy(c->path, value, v);
    return 0;
}

static int on_data(nghttp2_session *s, uint8_t flags, int32_t stream, const uint8_t *data, size_t n, void *user) {
    (void)flags, (void)user;
    struct call *c = nghttp2_session_get_stream_user_data(s, stream);
    if (!c || c->body.length + n > MESSAGE)
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    put(&c->body, data, n);
    return 0;
}

static int on_frame(nghttp2_session *s, const nghttp2_frame *f, void *user) {
    (void)user;
    if ((f->hd.type != NGHTTP2_HEADERS && f->hd.type != NGHTTP2_DATA) || !(f->hd.flags & NGHTTP2_FLAG_END_STREAM))
        return 0;
    struct call *c = nghttp2_session_get_stream_user_data(s, f->hd.stream_id);
    if (!c)
        return 0;
    c->busy = true;
    if (strncmp(c->path, "/pimoe.v1.Expert/", 17)) {
        fail(&c->failure, UNSUPPORTED, "method %.40s", c->path);
        answer(c);
    } else if (!strcmp(c->path + 17, "Forward") || !strcmp(c->path + 17, "Drain")) {
        pthread_mutex_lock(&lock);
        push(&todo, c);
        pthread_cond_signal(&work);
        pthread_mutex_unlock(&lock);
    } else {
        run(c);
        answer(c);
    }
    return 0;
}

static int on_close(nghttp2_session *s, int32_t stream, uint32_t code, void *user) {
    (void)code, (void)user;
    struct call *c = nghttp2_session_get_stream_user_data(s, stream);
    if (c && c->busy)
        c->gone = true;
    else if (c)
        forget(c);
    return 0;
}

static struct connection *accepted(int fd, SSL_CTX *tls) {
    struct connection *c = checked(sizeof *c);
    c->fd = fd;
    if (!(c->tls = SSL_new(tls)) || !SSL_set_fd(c->tls, fd))
        die("TLS");
    SSL_set_accept_state(c->tls);
    nghttp2_session_callbacks *calls;
    nghttp2_session_callbacks_new(&calls);
    nghttp2_session_callbacks_set_on_begin_headers_callback(calls, on_begin);
    nghttp2_session_callbacks_set_on_header_callback(calls, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(calls, on_data);
    nghttp2_session_callbacks_set_on_frame_recv_callback(calls, on_frame);
    nghttp2_session_callbacks_set_on_stream_close_callback(calls, on_close);
    nghttp2_session_server_new(&c->session, calls, c);
    nghttp2_session_callbacks_del(calls);
    nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 16 << 20}, {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, 256}};
    nghttp2_submit_settings(c->session, NGHTTP2_FLAG_NONE, settings, 2);
    nghttp2_session_set_local_window_size(c->session, NGHTTP2_FLAG_NONE, 0, 16 << 20);
    return c;
}

/* blocked says whether OpenSSL only waits. */
static bool blocked(struct connection *c, int result) {
    int why = SSL_get_error(c->tls, result);
    return why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE;
}

/* send_all sends what there is; false when the connection has ended. */
static bool send_all(struct connection *c) {
    for (;;) {
        if (!c->left) {
            ssize_t n = nghttp2_session_mem_send(c->session, &c->out);
            if (n <= 0)
                return n == 0;
            c->left = n;
        }
        ERR_clear_error();
        int n = SSL_write(c->tls, c->out, c->left);
        if (n <= 0)
            return blocked(c, n);
        c->out += n, c->left -= n;
    }
}

/* pump moves what can be moved; false when the connection has ended. */
static bool pump(struct connection *c) {
    uint8_t in[16384];
    ERR_clear_error();
    if (!SSL_is_init_finished(c->tls)) {
        int n = SSL_accept(c->tls);
        if (n <= 0)
            return blocked(c, n);
    }
    for (;;) {
        ERR_clear_error();
        int n = SSL_read(c->tls, in, sizeof in);
        if (n <= 0) {
            if (!blocked(c, n))
                return false;
            break;
        }
        if (nghttp2_session_mem_recv(c->session, in, n) != n)
            return false;
    }
    return send_all(c) && (nghttp2_session_want_read(c->session) || nghttp2_session_want_write(c->session));
}

static int choose(SSL *s, const unsigned char **out, unsigned char *n, const unsigned char *in, unsigned int length, void *unused) {
    (void)s, (void)unused;
    return SSL_select_next_proto((unsigned char **)out, n, (const unsigned char *)"\x02h2", 3, in, length) == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_ALERT_FATAL;
}

static BIO *memory(const char *text) { return BIO_new_mem_buf(text, -1); }

/* configure serves with the process's own certificate, and serves the host alone. */
static SSL_CTX *configure(const char *cert, const char *key, const char *authority) {
    OPENSSL_init_ssl(OPENSSL_INIT_NO_LOAD_CONFIG, NULL);
    SSL_CTX *t = SSL_CTX_new(TLS_server_method());
    X509 *own = PEM_read_bio_X509(memory(cert), NULL, NULL, NULL), *root = PEM_read_bio_X509(memory(authority), NULL, NULL, NULL);
    EVP_PKEY *secret = PEM_read_bio_PrivateKey(memory(key), NULL, NULL, NULL);
    if (!t || !own || !root || !secret || !SSL_CTX_use_certificate(t, own) || !SSL_CTX_use_PrivateKey(t, secret) ||
        !X509_STORE_add_cert(SSL_CTX_get_cert_store(t), root) || !SSL_CTX_set_min_proto_version(t, TLS1_3_VERSION))
        die("certificates");
    SSL_CTX_set_verify(t, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    SSL_CTX_set_num_tickets(t, 0);
    SSL_CTX_set_mode(t, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_alpn_select_cb(t, choose, NULL);
    return t;
}

static int listener(const char *path) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (strlen(path) >= sizeof a.sun_path)
        die("the socket's name is too long");
    strcpy(a.sun_path, path);
    if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) || listen(fd, 16))
        die("listen");
    return fd;
}

static void watch(int poll, int fd, void *what) {
    struct epoll_event e = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = what};
    if (epoll_ctl(poll, EPOLL_CTL_ADD, fd, &e))
        die("watch a descriptor");
}

/* finish answers the calls that are done and moves their connections. */
static void finish(struct connection **all, int count) {
    pthread_mutex_lock(&lock);
    struct call *list = done;
    done = NULL;
    pthread_mutex_unlock(&lock);
    for (struct call *c; (c = list);) {
        list = c->next;
        answer(c);
    }
    for (int i = 0; i < count; i++)
        if (!all[i]->dead && SSL_is_init_finished(all[i]->tls))
            send_all(all[i]);
}

void serve_control(const char *path, const char *cert, const char *key, const char *authority, void (*announce)(void)) {
    enum { MOST = 16 };
    struct connection *all[MOST];
    int count = 0, poll = epoll_create1(EPOLL_CLOEXEC), server = listener(path);
    SSL_CTX *tls = configure(cert, key, authority);
    if ((wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) < 0)
        die("eventfd");
    pthread_t thread;
    for (int i = 0; i < WORKERS; i++)
        if (pthread_create(&thread, NULL, worker, NULL))
            die("start a thread");
    watch(poll, server, &server);
    watch(poll, wake, &wake);
    announce();
    for (;;) {
        struct epoll_event e[8];
        int n = epoll_pwait(poll, e, 8, -1, NULL);
        for (int i = 0; i < n; i++) {
            if (e[i].data.ptr == &wake) {
                uint64_t unused;
                while (read(wake, &unused, sizeof unused) > 0) {
                }
            } else if (e[i].data.ptr == &server) {
                for (int fd; (fd = accept4(server, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0;) {
                    if (count == MOST) {
                        close(fd);
                        continue;
                    }
                    all[count] = accepted(fd, tls);
                    watch(poll, fd, all[count++]);
                }
            } else {
                struct connection *c = e[i].data.ptr;
                if (!c->dead && !pump(c)) {
                    c->dead = true;
                    close(c->fd);
                }
            }
        }
        finish(all, count);
        for (int i = 0; i < count; i++) {
            struct connection *c = all[i];
            if (!c->dead || !c->session)
                continue;
            nghttp2_session_del(c->session);
            c->session = NULL;
            for (struct call *k = c->calls, *next; k; k = next) { /* those that run end by themselves */
                next = k->sibling;
                if (!k->busy)
                    forget(k);
            }
        }
        for (int i = 0; i < count; i++)
            if (all[i]->dead && !all[i]->calls) {
                SSL_free(all[i]->tls);
                free(all[i]);
                all[i--] = all[--count];
            }
        if (atomic_load(&ending)) {
            drain(false);
            bool flushed = idle();
            for (int i = 0; i < count; i++)
                flushed = flushed && (all[i]->dead || (!all[i]->left && !nghttp2_session_want_write(all[i]->session)));
            if (flushed)
                return;
            struct timespec a_moment = {.tv_nsec = 1000000};
            nanosleep(&a_moment, NULL);
            terminate(); /* look again */
        }
    }
}
